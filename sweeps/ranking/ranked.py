"""The points of a grid as they are ranked, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from mmpo_train.metric_names import LOGRATIO_ACCURACY, POLICY_ACCURACY
from sweeps.ranking.significance import SIGNIFICANCE

SHARES_OF_PAIRS = (POLICY_ACCURACY, LOGRATIO_ACCURACY)
"""Metrics besides reward accuracy that are shares of the validation pairs; they compare points with any scores."""


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
    measure: float | None = None
    """The number by which points are chosen, if it is another than the share of right pairs."""
    error: float | None = None
    """Its standard error; None if it is not known."""
    training: str = ""
    """Name of its training: points that share it have the same model. Empty if it is not known."""
    score: str = ""
    """Name of the score that decides the pairs; accuracies by different scores cannot be compared."""
    start: float | None = None
    """Reward accuracy of the starting model by this score."""
    state: str = "finished"
    """finished, diverged, failed, stopped (by a person), or not measured; only the first can win."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Carried along: digest, checkpoint."""

    @property
    def share(self) -> float:
        return mean(self.correct) if self.measure is None else self.measure


@dataclass(frozen=True)
class Ranked:
    """A point's best epoch beside the winner's. A point without a result has no numbers."""

    candidate: Candidate
    """Of its first seed."""
    accuracy: float | None = None
    """Mean over seeds: reward accuracy, or what the points are chosen by."""
    interval: tuple[float, float] | None = None
    """Of 95%: Wilson's for a share of pairs, else 1.96 standard errors; None where these are not known."""
    p_value: float | None = None
    """That it is as good as the winner: of the exact sign test over pairs; with several seeds the larger of that and of
    the paired t-test over seeds. By another measure, of the paired t-test over seeds, else of its standard errors. None
    for the winner, and for what cannot be compared with it."""
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
        """The accuracy of every seed."""
        return tuple(one.share for one in self.seeds)

    @property
    def gain(self) -> float | None:
        """Accuracy above that of the starting model by the same score."""
        start = self.candidate.start
        return None if start is None or self.accuracy is None else self.accuracy - start

    @property
    def trainings(self) -> tuple[str, ...]:
        """Names of the trainings of all seeds; empty where they are not known."""
        return tuple(one.training for one in self.seeds if one.training)

    @property
    def near_winner(self) -> bool:
        """Whether it does not differ significantly from the winner at 5%."""
        return self.p_value is not None and self.p_value >= SIGNIFICANCE


@dataclass(frozen=True)
class Ranking:
    """The points of one grid from best to worst, those without a result last."""

    rows: tuple[Ranked, ...]
    winner: Ranked | None
    """None without a result, and where different models were scored differently and none has to be chosen."""
    pairs: int
    """Validation pairs everything was scored on."""
    reason: str
    """One or two sentences."""
    by: str = ""
    """The metric by which points are chosen; empty for reward accuracy."""

    @property
    def results(self) -> tuple[Ranked, ...]:
        """The points that have a result."""
        return tuple(row for row in self.rows if row.accuracy is not None)

    @property
    def scores_differ(self) -> bool:
        """Whether the accuracies are by different scores, so that they cannot be compared."""
        return not self.by and scores_differ(self.results)

    @property
    def is_one_model(self) -> bool:
        """Whether all points, of which there are several, are the same model."""
        return are_one_model(self.results)


def scores_differ(rows: Sequence[Ranked]) -> bool:
    """Whether the points' accuracies are by different scores."""
    return len({row.candidate.score for row in rows}) > 1


def are_one_model(rows: Sequence[Ranked]) -> bool:
    """Whether the points, of which there are several, are the same model."""
    return len(rows) > 1 and len({row.trainings for row in rows}) == 1 and bool(rows[0].trainings)
