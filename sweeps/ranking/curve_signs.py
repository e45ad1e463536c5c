"""What a stage's numbers look like that a newcomer misreads, each with the section of the page that explains it."""

from collections.abc import Sequence

from mmpo_train.metric_names import VALIDATION
from sweeps.ranking.ranked import Candidate, Ranked

PAGE = "docs/reading-the-curves.md"
CHOSEN = f"{VALIDATION}chosen_logps"
SATURATED = f"{VALIDATION}saturated_share"
LONGER, SHORTER = f"{VALIDATION}accuracy_chosen_longer", f"{VALIDATION}accuracy_chosen_shorter"
_MANY_SATURATED, _LENGTH_GAP, _SAME_NATS = 0.9, 0.2, 1e-3


def signs(candidates: Sequence[Candidate], winner: Ranked | None) -> list[str]:
    """A sentence for each sign that the winner, or the stage as a whole, shows."""
    if winner is None:
        return []
    own = {
        one.epoch: one.extra.get("metrics", {})
        for one in candidates
        if (one.label, one.seed) == (winner.candidate.label, winner.candidate.seed)
    }
    best = winner.candidate.extra.get("metrics", {})
    return [one for one in (_falls(own), _saturated(best), _length_bias(best), _blind(candidates)) if one]


def _falls(by_epoch: dict[int, dict[str, float | None]]) -> str:
    known = [by_epoch[epoch][CHOSEN] for epoch in sorted(by_epoch) if by_epoch[epoch].get(CHOSEN) is not None]
    first, last = (known[0], known[-1]) if len(known) > 1 else (None, None)
    if first is None or last is None or last >= first:
        return ""
    return (
        f"The chosen completions became less likely ({first:.1f} to {last:.1f} nats over the winner's epochs): "
        f"{PAGE}#the-chosen-completions-become-less-likely"
    )


def _saturated(metrics: dict[str, float | None]) -> str:
    share = metrics.get(SATURATED)
    if share is None or share < _MANY_SATURATED:
        return ""
    return f"{share:.0%} of the winner's pairs are saturated: {PAGE}#saturation"


def _length_bias(metrics: dict[str, float | None]) -> str:
    longer, shorter = metrics.get(LONGER), metrics.get(SHORTER)
    if longer is None or shorter is None or abs(longer - shorter) < _LENGTH_GAP:
        return ""
    return (
        f"The winner is right on {longer:.0%} of the pairs whose chosen completion is the longer one and on "
        f"{shorter:.0%} of the others: {PAGE}#length-bias"
    )


def _blind(candidates: Sequence[Candidate]) -> str:
    """Where several points have the same log-probabilities at the same epoch and seed, they are the same model."""
    groups: dict[tuple[int, int], dict[str, float]] = {}
    for one in candidates:
        value = one.extra.get("metrics", {}).get(CHOSEN)
        if value is not None:
            groups.setdefault((one.epoch, one.seed), {})[one.label] = value
    several = [values for values in groups.values() if len(values) > 1]
    if not several or any(max(values.values()) - min(values.values()) > _SAME_NATS for values in several):
        return ""
    return f"All points have the same log-probabilities, so they are the same model: {PAGE}#beta-blindness"
