"""Which trial of a grid wins, and how sure that is. Standard library only.

Reward accuracy is a share of a few hundred validation pairs, so neighbours on a grid often differ by less than
chance. All trials are scored on the same pairs, which makes an exact paired test possible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from mmpo_train.errors import InputError

SIGNIFICANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One scored checkpoint of a trial, or a trial that has no result."""

    label: str
    """The trial's short name, the same for all its epochs: `0.0005`."""
    value: float | str
    """Where it stands on the grid's axis."""
    epoch: int = 0
    correct: tuple[int, ...] = ()
    """1 for each validation pair whose chosen completion scored higher; the same pairs, in order, for all trials."""
    state: str = "finished"
    """finished, diverged or failed; only the first can win."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Carried along: digest, checkpoint."""


@dataclass(frozen=True)
class Ranked:
    """A trial's best checkpoint beside the winner's. A trial without a result has no numbers."""

    candidate: Candidate
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    """Wilson's 95% interval of the accuracy."""
    p_value: float | None = None
    """Of the exact sign test against the winner; None for the winner."""

    @property
    def near_winner(self) -> bool:
        """Whether it cannot be told from the winner at 5%."""
        return self.p_value is not None and self.p_value >= SIGNIFICANCE


@dataclass(frozen=True)
class Ranking:
    """The trials of one grid from best to worst, those without a result last."""

    rows: tuple[Ranked, ...]
    winner: Ranked | None
    pairs: int
    """Validation pairs everything was scored on."""
    reason: str
    """One or two sentences."""


def rank(candidates: Sequence[Candidate]) -> Ranking:
    """Best checkpoint of each trial, ordered by reward accuracy; the grid's order is that of `candidates`.

    Within a trial a tie goes to the earlier epoch, between trials to the first in the grid. Raises InputError
    when trials were scored on different numbers of pairs, or on none.
    """
    pairs = _pairs(candidates)
    trials: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        trials.setdefault(candidate.label, []).append(candidate)
    best, without = [], []
    for epochs in trials.values():
        broken = [candidate for candidate in epochs if candidate.state != "finished"]
        if broken:
            without.append(Ranked(broken[0]))
        else:
            best.append(max(epochs, key=lambda candidate: (sum(candidate.correct), -candidate.epoch)))
    best.sort(key=lambda candidate: -sum(candidate.correct))  # stable: ties stay in the grid's order
    rows = [
        Ranked(
            candidate,
            accuracy=sum(candidate.correct) / pairs,
            interval=wilson_interval(sum(candidate.correct), pairs),
            p_value=None if candidate is best[0] else sign_test(best[0].correct, candidate.correct),
        )
        for candidate in best
    ]
    return Ranking((*rows, *without), rows[0] if rows else None, pairs, _reason(rows, without, pairs))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of a share: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Exact ends, where rounding would leave 1e-17 on the wrong side.
    low = (centre - spread) / scale if successes else 0.0
    high = (centre + spread) / scale if successes < trials else 1.0
    return low, high


def sign_test(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Two-sided p of McNemar's exact test: do the pairs only one of them has right fall evenly on both?

    p = min(1, 2 * sum_{k <= min(b, c)} C(b + c, k) / 2^(b + c)), b and c the pairs only ours or only theirs has
    right. Not corrected for the number of trials compared, nor for the best epoch having been picked.
    """
    ours_only = sum(1 for our, their in zip(ours, theirs, strict=True) if our and not their)
    theirs_only = sum(1 for our, their in zip(ours, theirs, strict=True) if their and not our)
    discordant = ours_only + theirs_only
    tail = sum(math.comb(discordant, count) for count in range(min(ours_only, theirs_only) + 1))
    return min(1.0, 2 * tail / 2**discordant)


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
    name = winner.candidate.label
    share = f"{sum(winner.candidate.correct)} of {pairs} pairs right ({winner.accuracy:.3f})"
    if not others:
        return f"{name} wins: {share}, the only trial with a result."
    tied = [row.candidate.label for row in others if row.accuracy == winner.accuracy]
    near = [row.candidate.label for row in others if row.near_winner and row.accuracy != winner.accuracy]
    if tied:
        first = f"{name} ties with {_listed(tied)} at {share}: taken as first in the grid."
    else:
        second = others[0]
        assert winner.accuracy is not None and second.accuracy is not None
        lead = 100 * (winner.accuracy - second.accuracy)
        first = (
            f"{name} wins: {share}, {lead:.1f} {'point' if f'{lead:.1f}' == '1.0' else 'points'} above the next "
            f"({second.candidate.label}, {p_text(second.p_value)})."
        )
    return f"{first} At 5% it cannot be told from {_listed(near)}." if near else first


def p_text(p_value: float | None) -> str:
    """A p value as a person reads it."""
    assert p_value is not None
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def _listed(labels: Sequence[str]) -> str:
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
