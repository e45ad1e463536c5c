"""Records of the ledger as plain values: trials, stages and the runs below a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eval_workers.tracking.store import param_number
from mmpo_train.metric_names import OF_SUITE
from sweeps.ledger.tags import SHARED, is_held, seconds_of

if TYPE_CHECKING:
    from mlflow.entities import Run

Curve = list[tuple[int, float]]
"""(step, value) in order of steps."""

COMPLETE = ("finished", "diverged")
"""States of trials that are never run again."""
SETTINGS, FIXED, COMMAND = "stage.settings", "stage.fixed", "stage.command"
SEARCHES = "searches"
"""The tag with the keys of the searches that a stage or trial belongs to."""
GRID = "points.json"
"""The file of a stage's run that lists the points of its grid."""
MODEL, DATA = "experiment.model", "experiment.data"
SHORT_NAME, LONG_NAME = "experiment.short_name", "experiment.long_name"
"""Tags of an experiment: the contents of model and data, and their names."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one checkpoint."""

    epoch: int
    metrics: dict[str, float | None]
    """None for a value that was not finite."""
    correct: tuple[int, ...]
    """1 for each validation pair whose chosen completion scored higher, in dataset order."""
    checkpoint: str


@dataclass(frozen=True)
class TrialRecord:
    """A trial in the ledger."""

    run_id: str
    digest: str
    name: str
    stage: str
    """The stage that started it."""
    parent: str
    """Id of that stage's run."""
    status: str
    """finished, diverged, stopped (early), failed, or running (the last also after a kill)."""
    params: dict[str, str]
    config: dict[str, Any]
    """The fields of its TrialConfig; empty if it was killed before they were stored."""
    evaluations: tuple[Evaluation, ...]
    judged_by: frozenset[str]
    """The evaluations of which it has results."""
    reason: str
    """Why it diverged or failed."""
    seconds: float | None
    read_curve: Callable[[str, str], Curve] = field(repr=False, compare=False)
    """Reads a metric of a run from the ledger, by the run's id and the metric's name."""
    shares: str = ""
    """The trial whose training it shares; empty if it was trained itself."""
    logged: frozenset[str] = frozenset()
    """Names of its metrics."""
    held: bool = False
    """Whether a person has stopped it, and nobody has asked since that it goes on."""

    def curve(self, metric: str) -> Curve:
        """The values of a metric, read from the ledger now."""
        return self.read_curve(self.run_id, metric)


@dataclass(frozen=True)
class StageRecord:
    """A stage in the ledger. A person may change its tags."""

    run_id: str
    title: str
    tags: dict[str, str]
    ended_ms: int
    """Time of its last conclusion; 0 if there was none."""


@dataclass(frozen=True)
class ChildRecord:
    """A run below a stage: a trial that the stage started, or the stand-in for a trial of another stage."""

    run_id: str
    name: str
    digest: str
    state: str
    """One of a trial's states."""
    reason: str
    """Why it diverged or failed."""
    params: dict[str, str]
    tags: dict[str, str]
    """A person may change them."""

    def number(self, field: str) -> float:
        """The param of a tuned field."""
        return param_number(self.params, field)


def trial_record(run: Run, artifacts: dict[str, Any], read_curve: Callable[[str, str], Curve]) -> TrialRecord:
    """A trial's run in MLflow, with its JSON artifacts, as a record."""
    tags = run.data.tags
    config = artifacts.pop("trial.json", {})
    return TrialRecord(
        run_id=run.info.run_id,
        digest=tags["trial.digest"],
        name=run.info.run_name,
        stage=tags.get("stage.name", ""),
        parent=tags.get("mlflow.parentRunId", ""),
        status=tags.get("trial.state", "running"),
        params=dict(run.data.params),
        config=config,
        evaluations=tuple(
            Evaluation(scored["epoch"], scored["metrics"], tuple(scored["correct"]), scored["checkpoint"])
            for scored in artifacts.values()
        ),
        judged_by=frozenset(
            suite for suite, group in OF_SUITE.items() if any(name.startswith(group) for name in run.data.metrics)
        ),
        reason=tags.get("trial.reason", ""),
        seconds=seconds_of(tags),
        read_curve=read_curve,
        shares=tags.get(SHARED, ""),
        logged=frozenset(run.data.metrics),
        held=is_held(tags),
    )
