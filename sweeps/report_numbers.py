"""A number of the report with its noise: over seeds, against the paper's, over beta. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from sweeps.report_ledger import Point, StageRun, Trial

REWARD, HARNESS, ARENA = "validation/reward_accuracy", "harness/mean_accuracy", "arena_hard/win_rate"
PUBLISHED = "alpaca/lc_win_rate"
LENGTH_CONTROLLED = {
    PUBLISHED: "length-controlled win rate",
    "alpaca/lc_win_rate_part": "length-controlled win rate on part of the prompts",
    "alpaca/lc_win_rate_noreg": "length-controlled win rate, not regularised",
    "alpaca/lc_win_rate_minimal": "length-controlled win rate without difficulties",
}
"""Metric -> its name. Only the first is AlpacaEval's own, which the paper prints."""
Z = 1.96


@dataclass(frozen=True)
class Measured:
    """A share from 0 to 1 with what it may be off by."""

    value: float
    """Mean over seeds."""
    noise: float | None
    """Of one run; None where nobody knows."""
    noise_is: str
    seeds: int = 1
    missing: int = 0
    """Seeds without this number."""

    @property
    def error(self) -> float | None:
        """Of the mean over seeds."""
        return None if self.noise is None else self.noise / math.sqrt(self.seeds)


def measure(point: Point, metric: str, epoch: int) -> Measured | None:
    """The point's number at an epoch, of trials that finished; None where no seed has it.

    Its noise is the sample standard deviation over seeds where there are several, else the metric's own error.
    """
    known = [trial for trial in point.trials if trial.record.status == "finished"]
    values = [trial.scores[metric][epoch] for trial in known if epoch in trial.scores.get(metric, {})]
    if not values:
        return None
    missing = point.expected - len(values)
    if len(values) > 1:
        return Measured(
            mean(values), stdev(values), f"standard deviation over {len(values)} seeds", len(values), missing
        )
    [trial] = [trial for trial in known if epoch in trial.scores.get(metric, {})]
    return Measured(values[0], *own_error(trial, metric, epoch), 1, missing)


def own_error(trial: Trial, metric: str, epoch: int) -> tuple[float | None, str]:
    """A metric's standard error within one run, and what it is."""
    if metric == REWARD and trial.pairs:
        share = trial.scores[metric][epoch]
        return math.sqrt(share * (1 - share) / trial.pairs), f"binomial standard error, {trial.pairs} pairs"
    errors = {HARNESS: "harness/mean_accuracy_error", ARENA: "arena_hard/win_rate_error"}
    if metric in errors and epoch in trial.scores.get(errors[metric], {}):
        whose = "bootstrap's standard error" if metric == ARENA else "standard error over the tasks' documents"
        return trial.scores[errors[metric]][epoch], whose
    judges = [name for name in trial.scores if name.startswith(f"{metric}_error/") and epoch in trial.scores[name]]
    if judges:
        # All judges read the same answers, so their errors may all point one way: the mean of them is the most it is.
        of = "the judge's standard error" if len(judges) == 1 else f"mean of {len(judges)} judges' standard errors"
        return mean(trial.scores[name][epoch] for name in judges), of
    return None, "unknown"


def length_controlled(stages: Sequence[StageRun]) -> str:
    """The kind of length-controlled win rate that was measured; the published one where there is none."""
    measured = {name for stage in stages for point in stage.points for trial in point.trials for name in trial.scores}
    return next((name for name in LENGTH_CONTROLLED if name in measured), PUBLISHED)


def epochs_of(stage: StageRun) -> range:
    """Epochs that the stage's trials were to have."""
    asked = [int(trial.record.params.get("epochs", 1)) for point in stage.points for trial in point.trials]
    return range(1, max(asked, default=0) + 1)


@dataclass(frozen=True)
class Peak:
    """The checkpoint with the most of one metric, and its share of another."""

    label: str
    epoch: int
    value: Measured
    other: Measured | None


def peak(stage: StageRun, metric: str, other: str) -> Peak | None:
    """Over all points and epochs; a tie goes to the earlier point, then to the earlier epoch."""
    found: Peak | None = None
    for point in stage.points:
        for epoch in epochs_of(stage):
            value = measure(point, metric, epoch)
            if value is not None and (found is None or value.value > found.value.value):
                found = Peak(point.label, epoch, value, measure(point, other, epoch))
    return found


def difference(ours: Measured | None, paper_percent: float | None) -> tuple[float | None, bool | None]:
    """Ours minus the paper's, in percentage points, and whether noise explains it: |d| <= 1.96 noise sqrt(1 + 1/n).

    The paper prints no errors: its one run is taken to be as noisy as one of ours, ours is a mean of n.
    """
    if ours is None or paper_percent is None:
        return None, None
    off = 100 * ours.value - paper_percent
    if ours.noise is None:
        return off, None
    return off, abs(off) <= 100 * Z * ours.noise * math.sqrt(1 + 1 / ours.seeds)


@dataclass(frozen=True)
class Spread:
    """How far a metric moves over beta."""

    widest: float
    """Largest minus smallest."""
    deviation: float
    """Sample standard deviation over the betas."""
    noise: float | None
    """What it would be if beta did nothing: root mean square of the points' errors."""
    noise_is: str
    p_value: float | None
    """Of so large a spread by noise alone: chi squared of (k - 1) (deviation / noise)^2."""

    @property
    def ratio(self) -> float | None:
        return self.deviation / self.noise if self.noise else None


def spread(points: Sequence[Measured]) -> Spread | None:
    """Over the betas that have the metric; None with fewer than two."""
    if len(points) < 2:
        return None
    values, errors = [one.value for one in points], [one.error for one in points if one.error is not None]
    noise = math.sqrt(mean(error**2 for error in errors)) if len(errors) == len(points) else None
    kinds = sorted({one.noise_is for one in points})
    deviation = stdev(values)
    p_value = chi_squared_tail((len(points) - 1) * (deviation / noise) ** 2, len(points) - 1) if noise else None
    return Spread(max(values) - min(values), deviation, noise, "; ".join(kinds), p_value)


def chi_squared_tail(x: float, freedom: int) -> float:
    """P(chi squared with so many degrees of freedom >= x), by the finite sums of Abramowitz & Stegun 26.4.4 and 5."""
    half = x / 2
    if freedom % 2 == 0:
        return math.exp(-half) * sum(half**k / math.factorial(k) for k in range(freedom // 2))
    terms = sum(half ** (k - 0.5) / math.gamma(k + 0.5) for k in range(1, (freedom - 1) // 2 + 1))
    return math.erfc(math.sqrt(half)) + math.exp(-half) * terms
