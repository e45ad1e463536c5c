"""A difference of two numbers with its 95% interval, and what it says of a claim: in the values alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from sweeps.ranking.noise import Measured
from sweeps.ranking.significance import Z, t_quantile

Verdict = Literal["holds", "within noise", "an identity", "contradicted", "not measured"]


@dataclass(frozen=True)
class Floor:
    """How far one metric moves between trainings that are the same: replicates of one number."""

    deviation: float
    freedom: int
    """Degrees of freedom of the deviation."""
    replicates: int


@dataclass(frozen=True)
class Effect:
    """A difference, in the units of its numbers. Without a known noise there is no interval."""

    value: float
    interval: tuple[float, float] | None
    replicates: str
    """How many numbers stand on each side."""
    noise_is: str


def in_points(effect: Effect) -> str:
    """`+5.38 points (+2.30 to +8.45), beyond noise`, of shares."""
    points = f"{100 * effect.value:+.2f} points"
    if effect.interval is None:
        return f"{points}, noise unknown"
    low, high = effect.interval
    return f"{points} ({100 * low:+.2f} to {100 * high:+.2f}), {'within' if low <= 0 <= high else 'beyond'} noise"


def floor_of(groups: Sequence[Sequence[float]]) -> Floor | None:
    """From groups of replicates, such as the betas of MMPO in each epoch; None without two in any group."""
    some = [group for group in groups if len(group) > 1]
    if not some:
        return None
    freedom = sum(len(group) - 1 for group in some)
    squares = sum((value - mean(group)) ** 2 for group in some for value in group)
    return Floor(math.sqrt(squares / freedom), freedom, max(map(len, some)))


def difference_of(ours: Measured, theirs: Measured, floor: Floor | None = None) -> Effect:
    """Ours minus theirs. The noise is that over seeds where both have several (Welch); else the larger of the numbers'
    own standard errors and the floor, which knows what happens between trainings and not what other prompts would do.
    """
    counts = f"{ours.seeds} against {theirs.seeds}"
    value = ours.value - theirs.value
    if ours.noise is None or theirs.noise is None:
        widths = {}
    elif min(ours.seeds, theirs.seeds) > 1:
        return welch(value, (ours.noise, ours.seeds), (theirs.noise, theirs.seeds))
    else:
        assert ours.error is not None and theirs.error is not None
        widths = {"standard errors": Z * math.hypot(ours.error, theirs.error)}
    if floor is not None:
        scale = math.sqrt(1 / ours.seeds + 1 / theirs.seeds)
        widths[f"MMPO's {floor.replicates} betas, replicates of one training"] = (
            t_quantile(floor.freedom) * floor.deviation * scale
        )
    if not widths:
        return Effect(value, None, counts, "unknown")
    noise_is = max(widths, key=lambda name: widths[name])
    return Effect(value, (value - widths[noise_is], value + widths[noise_is]), counts, noise_is)


def welch(value: float, ours: tuple[float, int], theirs: tuple[float, int]) -> Effect:
    """Of two means over seeds, each given as (deviation, seeds): Welch's interval."""
    parts = [deviation**2 / count for deviation, count in (ours, theirs)]
    freedom = (
        sum(parts) ** 2 / sum(part**2 / (n - 1) for part, (_, n) in zip(parts, (ours, theirs))) if any(parts) else 1
    )
    width = t_quantile(freedom) * math.sqrt(sum(parts))
    return Effect(value, (value - width, value + width), f"{ours[1]} against {theirs[1]} seeds", "deviation over seeds")


def of_samples(ours: Sequence[float], theirs: Sequence[float]) -> Effect:
    """Mean of ours minus mean of theirs, one value a seed; no interval where one of them has a single seed."""
    value, counts = mean(ours) - mean(theirs), f"{len(ours)} against {len(theirs)} seeds"
    if min(len(ours), len(theirs)) < 2:
        return Effect(value, None, counts, "unknown: a single seed")
    return welch(value, (stdev(ours), len(ours)), (stdev(theirs), len(theirs)))


def verdict_of(effect: Effect | None, sign: int) -> Verdict:
    """What an effect says of a claim that it is above 0 (1), below 0 (-1), or that there is none (0)."""
    if effect is None or effect.interval is None:
        return "not measured"
    low, high = effect.interval
    if low <= 0 <= high:
        return "within noise"
    return "holds" if (low > 0 and sign > 0) or (high < 0 and sign < 0) else "contradicted"
