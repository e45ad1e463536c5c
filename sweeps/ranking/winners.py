"""Which point of a grid wins, and how sure that is.

Reward accuracy is a share of a few hundred validation pairs, so neighbours on a grid often differ by less than
chance. All trials are scored on the same pairs, which makes an exact paired test possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from mmpo_train.errors import InputError
from sweeps.ranking.significance import SIGNIFICANCE, p_text, sign_test, t_test, wilson_interval

_NAMED = 12
"""So many points are named in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One scored checkpoint of a trial, or a trial that has no result."""

    label: str
    """The point's short name, the same for all its epochs and seeds: `0.0005`."""
    value: float | str
    """Where it stands on the grid's axis."""
    epoch: int = 0
    seed: int = 0
    correct: tuple[int, ...] = ()
    """1 for each validation pair whose chosen completion scored higher; the same pairs, in order, for all trials."""
    state: str = "finished"
    """finished, diverged or failed; only the first can win."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Carried along: digest, checkpoint."""


@dataclass(frozen=True)
class Ranked:
    """A point's best epoch beside the winner's. A point without a result has no numbers."""

    candidate: Candidate
    """Of its first seed."""
    accuracy: float | None = None
    """Mean over seeds."""
    interval: tuple[float, float] | None = None
    """Wilson's 95% interval of the accuracy, from the number of pairs."""
    p_value: float | None = None
    """That it is as good as the winner: of the exact sign test over pairs; with several seeds the larger of that and of
    the paired t-test over seeds. None for the winner."""
    seeds: tuple[Candidate, ...] = ()
    """The same epoch of every seed."""

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for a single one."""
        shares = self.shares
        return stdev(shares) if len(shares) > 1 else None

    @property
    def bar(self) -> tuple[float, float] | None:
        """What a picture draws around the accuracy: its standard deviation over seeds, or a single one's interval."""
        if self.accuracy is None or self.deviation is None:
            return self.interval
        return self.accuracy - self.deviation, self.accuracy + self.deviation

    @property
    def shares(self) -> tuple[float, ...]:
        """Reward accuracy of every seed."""
        return tuple(mean(one.correct) for one in self.seeds)

    @property
    def near_winner(self) -> bool:
        """Whether it cannot be told from the winner at 5%."""
        return self.p_value is not None and self.p_value >= SIGNIFICANCE


@dataclass(frozen=True)
class Ranking:
    """The points of one grid from best to worst, those without a result last."""

    rows: tuple[Ranked, ...]
    winner: Ranked | None
    pairs: int
    """Validation pairs everything was scored on."""
    reason: str
    """One or two sentences."""


def rank(candidates: Sequence[Candidate]) -> Ranking:
    """Best epoch of each point, ordered by reward accuracy; the grid's order is that of `candidates`.

    Over several seeds accuracy is the mean, and an epoch is the same for all of them. A point of which one seed has no
    result has none. Within a point a tie goes to the earlier epoch, between points to the first in the grid. Raises
    InputError when trials were scored on different numbers of pairs, or on none.
    """
    pairs = _pairs(candidates)
    points: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        points.setdefault(candidate.label, []).append(candidate)
    best: list[tuple[Candidate, ...]] = []
    without = []
    for scored in points.values():
        broken = [candidate for candidate in scored if candidate.state != "finished"]
        if broken:
            without.append(Ranked(broken[0]))
        else:
            best.append(_best_epoch(scored))
    best.sort(key=lambda seeds: -_right(seeds) / len(seeds))  # stable: ties stay in the grid's order
    rows = [
        Ranked(
            seeds[0],
            accuracy=_right(seeds) / len(seeds) / pairs,
            interval=wilson_interval(_right(seeds) / len(seeds), pairs),
            p_value=None if seeds is best[0] else _p_value(best[0], seeds),
            seeds=seeds,
        )
        for seeds in best
    ]
    return Ranking((*rows, *without), rows[0] if rows else None, pairs, _reason(rows, without, pairs))


def _best_epoch(scored: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Every seed's candidate of the epoch that is best on average."""
    epochs: dict[int, list[Candidate]] = {}
    for candidate in scored:
        epochs.setdefault(candidate.epoch, []).append(candidate)
    seeds = max(len(some) for some in epochs.values())
    whole = {epoch: some for epoch, some in epochs.items() if len(some) == seeds}
    return tuple(whole[max(whole, key=lambda epoch: (_right(whole[epoch]), -epoch))])


def _right(seeds: Sequence[Candidate]) -> int:
    return sum(sum(one.correct) for one in seeds)


def _p_value(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> float:
    """The sign test over pairs, verdicts summed over seeds: a pair counts once, however often it was scored.

    That takes the seeds as given. So that a lucky seed decides nothing either, the larger of it and of the t-test over
    seeds counts, where both points have the same two seeds or more.
    """
    over_pairs = sign_test(_summed(ours), _summed(theirs))
    if len(ours) < 2 or [one.seed for one in ours] != [one.seed for one in theirs]:
        return over_pairs
    return max(over_pairs, t_test([mean(a.correct) - mean(b.correct) for a, b in zip(ours, theirs, strict=True)]))


def _summed(seeds: Sequence[Candidate]) -> list[int]:
    return [sum(verdicts) for verdicts in zip(*(one.correct for one in seeds), strict=True)]


def _pairs(candidates: Sequence[Candidate]) -> int:
    """The number of pairs all finished candidates were scored on; 0 when none finished."""
    finished = [candidate for candidate in candidates if candidate.state == "finished"]
    counts = {len(candidate.correct) for candidate in finished}
    if len(counts) > 1:
        several = len({candidate.label for candidate in finished}) < len(finished)
        listed = ", ".join(f"{c.label}{f' epoch {c.epoch}' if several else ''} on {len(c.correct)}" for c in finished)
        raise InputError(
            f"the trials were scored on different numbers of validation pairs ({listed}) and cannot be ranked; "
            f"evaluate all of them on the same pairs"
        )
    if counts == {0}:
        raise InputError("the trials were scored on no validation pairs; give the dataset a validation split")
    return counts.pop() if counts else 0


def _reason(rows: Sequence[Ranked], without: Sequence[Ranked], pairs: int) -> str:
    if not rows:
        states = ", ".join(f"{row.candidate.label} {row.candidate.state}" for row in without)
        return f"No winner: no trial has a result ({states})." if without else "No winner: there are no trials."
    winner, others = rows[0], rows[1:]
    name, several = winner.candidate.label, len(winner.seeds) > 1
    share = f"{sum(winner.candidate.correct)} of {pairs} pairs right ({winner.accuracy:.3f})"
    if several:
        share = f"{winner.accuracy:.3f} (±{winner.deviation:.3f} over {len(winner.seeds)} seeds) of {pairs} pairs right"
    if not others:
        return f"{name} wins: {share}, the only trial with a result."
    tied = [row.candidate.label for row in others if row.accuracy == winner.accuracy]
    near = [row.candidate.label for row in others if row.near_winner and row.accuracy != winner.accuracy]
    if tied:
        first = f"{name} ties with {listed(tied)} at {share}: taken as first in the grid."
    else:
        second = others[0]
        assert winner.accuracy is not None and second.accuracy is not None
        lead = 100 * (winner.accuracy - second.accuracy)
        first = (
            f"{name} wins: {share}, {lead:.1f} {'point' if f'{lead:.1f}' == '1.0' else 'points'} above the next "
            f"({second.candidate.label}, {p_text(second.p_value)})."
        )
    if not near:
        return first
    return (
        f"{first} A tie within noise: {listed(near)}."
        if several
        else f"{first} At 5% it cannot be told from {listed(near)}."
    )


def listed(labels: Sequence[str]) -> str:
    """`a, b and c`; of very many the first, and how many others."""
    if len(labels) > _NAMED + 1:
        labels = [*labels[:_NAMED], f"{len(labels) - _NAMED} others"]
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
