"""Measured numbers with their noise, their differences and their spread."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean, stdev

from sweeps.ranking.significance import Z, spread_test


@dataclass(frozen=True)
class Measured:
    """A share from 0 to 1, and its noise."""

    value: float
    """Mean over seeds."""
    noise: float | None
    """Standard error of one run's number; None if not known."""
    noise_is: str
    seeds: int = 1
    missing: int = 0
    """Number of seeds without this number."""
    mark: str = ""
    """What else it is than its name says."""

    @property
    def error(self) -> float | None:
        """Standard error of the mean over seeds."""
        return None if self.noise is None else self.noise / math.sqrt(self.seeds)


def over_seeds(curves: Iterable[Iterable[tuple[int, float]]]) -> dict[int, list[float]]:
    """Step -> the values of all seeds that have it, in the order of steps; each curve is one seed's."""
    values: dict[int, list[float]] = {}
    for step, value in chain.from_iterable(curves):
        values.setdefault(step, []).append(value)
    return dict(sorted(values.items()))


def difference(ours: Measured | None, paper_percent: float | None) -> tuple[float | None, bool | None]:
    """Ours minus the paper's, in percentage points, and whether noise explains it: |d| <= 1.96 noise sqrt(1 + 1/n).

    The paper prints no errors. Its one run is assumed to be as noisy as one of ours; ours is the mean of n.
    """
    if ours is None or paper_percent is None:
        return None, None
    off = 100 * ours.value - paper_percent
    if ours.noise is None:
        return off, None
    return off, abs(off) <= 100 * Z * ours.noise * math.sqrt(1 + 1 / ours.seeds)


@dataclass(frozen=True)
class Spread:
    """The variation of a metric over beta."""

    widest: float
    """Largest minus smallest."""
    deviation: float
    """Sample standard deviation over the betas."""
    noise: float | None
    """Expected deviation if beta had no effect: root mean square of the points' errors."""
    noise_is: str
    p_value: float | None
    """Probability that noise alone gives this deviation or more: chi squared of (k - 1) (deviation / noise)^2."""

    @property
    def ratio(self) -> float | None:
        return self.deviation / self.noise if self.noise else None


def spread(points: Sequence[Measured]) -> Spread | None:
    """The spread over the betas that have the metric; None for fewer than two."""
    if len(points) < 2:
        return None
    values, errors = [one.value for one in points], [one.error for one in points if one.error is not None]
    noise = math.sqrt(mean(error**2 for error in errors)) if len(errors) == len(points) else None
    kinds = sorted({one.noise_is for one in points})
    deviation = stdev(values)
    p_value = spread_test(deviation, noise, len(points)) if noise else None
    return Spread(max(values) - min(values), deviation, noise, "; ".join(kinds), p_value)
