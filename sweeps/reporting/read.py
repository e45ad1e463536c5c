"""The data of a report: every stage and trial of an experiment, read from MLflow alone."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_workers.tracking.evaluations import EXPERIMENT as JUDGED_ALONE
from eval_workers.tracking.store import param_number
from mmpo_train.config import OBJECTIVE_FIELDS, TrialConfig, from_dict
from mmpo_train.errors import InputError
from mmpo_train.metric_names import ACCURACY_CURVE, OF_SUITE
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.records import COMPLETE, GRID, ChildRecord, TrialRecord, trial_record
from sweeps.ledger.runs import BY_PERSON, WINNER, children_of
from sweeps.ledger.tags import Hardware, hardware_of, winner_of
from sweeps.plan.order import DECIDED_IN, SEARCH

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Trial:
    """A trial with the numbers of every epoch's checkpoint."""

    record: TrialRecord
    tags: dict[str, str]
    scores: dict[str, dict[int, float]]
    """Metric -> epoch -> value."""
    curve: tuple[tuple[int, float], ...]
    """(step, validation reward accuracy) while it trained."""

    @property
    def hardware(self) -> Hardware | None:
        return hardware_of(self.tags)

    @property
    def pairs(self) -> int:
        """Number of validation pairs on which it was scored; 0 before the first checkpoint."""
        return len(self.record.evaluations[0].correct) if self.record.evaluations else 0


@dataclass(frozen=True)
class Point:
    """A point of a stage's grid, over its seeds."""

    label: str
    trials: tuple[Trial, ...]
    """The trials that the ledger has, finished or not."""
    expected: int
    """Number of seeds that were planned."""


@dataclass(frozen=True)
class StageRun:
    """A stage's run."""

    run_id: str
    name: str
    objective: str
    tags: dict[str, str]
    params: dict[str, str]
    ended_ms: int
    points: tuple[Point, ...]
    """The points in the grid's order; empty for a study."""
    children: tuple[ChildRecord, ...]
    ranking: tuple[dict[str, Any], ...]
    """The rows of its ranking table."""
    study: tuple[dict[str, str], ...] = ()
    """Lines of a study's table: metric, row, column, learning_rate and the value of a seed."""

    @property
    def finished(self) -> bool:
        return self.tags.get("stage.state") == "finished"

    @property
    def axis(self) -> str:
        return self.params.get("axis", "point")

    @property
    def trials(self) -> list[Trial]:
        """The trials of all its points."""
        return [trial for point in self.points for trial in point.trials]

    @property
    def winner(self) -> str:
        """Label of the point that won by rule or was chosen by a person; empty where none has."""
        chosen = self.persons_choice
        digest = chosen.digest if chosen is not None else self.tags.get("stage.winner_digest")
        ours = (one for one in self.points if any(trial.record.digest == digest for trial in one.trials))
        return next((point.label for point in ours), "")

    def disagreeing(self, decided: Mapping[str, float | None]) -> list[str]:
        """The fields of which the stage was run with another value than is decided."""
        own = {name: param_number(self.params, name) for name in decided if name in self.params}
        return [name for name, value in own.items() if decided[name] not in (None, value)]

    @property
    def persons_choice(self) -> ChildRecord | None:
        """The run below it that a person has chosen."""
        chosen = (child for child in self.children if child.tags.get(WINNER, "").strip() == BY_PERSON)
        return next(chosen, None)


@dataclass(frozen=True)
class Experiment:
    """All that the ledger has of one model on one dataset."""

    name: str
    stages: tuple[StageRun, ...]
    """The oldest first."""
    trials: dict[str, Trial]
    starting_model: dict[str, float]
    """Scores of the starting model by itself; empty if it was not evaluated."""
    search: str = ""
    """The search that these stages belong to."""
    other_searches: tuple[str, ...] = ()
    """Those of the experiment that are left out."""

    @property
    def model(self) -> str:
        """The starting model, as its trials name it."""
        return next((trial.record.params.get("model", "") for trial in self.trials.values()), "")

    @property
    def recipe(self) -> str:
        return next((stage.params["recipe"] for stage in self.stages if "recipe" in stage.params), "")

    @property
    def objectives(self) -> list[str]:
        """The objectives, in the order of docs/objectives.md."""
        there = {stage.objective for stage in self.stages}
        return [name for name in OBJECTIVE_FIELDS if name in there]

    def trained_in(self, stage: StageRun) -> list[Trial]:
        """The trials that a stage began, those among them that share the training of another too."""
        begun = [child.digest for child in stage.children if "trial.digest" in child.tags]
        return [self.trials[digest] for digest in begun if digest in self.trials]

    def runs_of(self, name: str, objective: str) -> list[StageRun]:
        return [stage for stage in self.stages if (stage.name, stage.objective) == (name, objective)]

    def stage(self, name: str, objective: str) -> StageRun | None:
        """The run that counts, as for later stages: of those with the values that earlier stages chose, if there are
        any, one in which a person has chosen before any other, then the last that ended."""
        runs = self.runs_of(name, objective)
        if name in SEARCH:
            decided = {field: self.chosen(field, objective) for field in SEARCH[name].chosen(objective)}
            runs = [run for run in runs if not run.disagreeing(decided)] or runs
        return max(runs, key=lambda run: (run.persons_choice is not None, run.finished, run.ended_ms), default=None)

    def chosen(self, field: str, objective: str) -> float | None:
        """The value of a tuned field that the search settled on: a person's, else the rule's; None where it is open."""
        stage = self.stage(DECIDED_IN[field], objective)
        if stage is None:
            return None
        if stage.persons_choice is not None:
            return stage.persons_choice.number(field)
        return winner_of(stage.tags, field) if stage.finished else None


def config_of(recorded: Mapping[str, Any]) -> TrialConfig:
    """The config that the ledger has of a trial, without fields that this version does not know."""
    return from_dict({name: value for name, value in recorded.items() if name in TrialConfig.__dataclass_fields__})


def experiments_of(ledger: Ledger) -> list[str]:
    """Names of the experiments that have a stage."""
    with ledger.store.reading():
        found = ledger.store.client.search_experiments()
        return sorted(one.name for one in found if ledger.store.search(one.experiment_id, {"ledger.kind": "stage"}))


def read_experiment(ledger: Ledger, name: str, objectives: Sequence[str] = ()) -> Experiment:
    """All data of an experiment, or of some of its objectives. Raises InputError if there are none."""
    store = ledger.store
    with store.reading():
        experiment_id = store.experiment_id(name, create=False)
        stages = [run for run in store.search(experiment_id, {"ledger.kind": "stage"}) if _counts(run)]
        stages = [run for run in stages if not objectives or run.data.tags["stage.objective"] in objectives]
        if not stages:
            known = "; ".join(experiments_of(ledger)) or "none"
            wanted = f" of {', '.join(objectives)}" if objectives else ""
            raise InputError(
                f"the ledger at {ledger.uri} has no stage{wanted} in the experiment {name!r}; experiments with "
                f"stages: {known}"
            )
        trials = _trials(ledger, experiment_id, objectives)
        read = tuple(_stage(ledger, experiment_id, run, trials) for run in stages)
    found = Experiment(name, read, trials, {})
    return replace(found, starting_model=judged_alone(ledger, found.model))


def read_run(ledger: Ledger, run_id: str) -> Trial:
    """One trial. Raises InputError if the run is not a trial."""
    record = ledger.read_trial(run_id)
    with ledger.store.reading():
        return _trial(ledger, ledger.store.client.get_run(run_id), record)


def _counts(run: Run) -> bool:
    return "duplicate_of" not in run.data.tags


def _trials(ledger: Ledger, experiment_id: str, objectives: Sequence[str]) -> dict[str, Trial]:
    """Digest -> trial, from the run that counts: a complete one, otherwise the oldest."""
    runs = [run for run in ledger.store.search(experiment_id, {"ledger.kind": "trial"}) if _counts(run)]
    runs = [run for run in runs if not objectives or run.data.params.get("objective") in objectives]
    runs.sort(key=lambda run: run.data.tags.get("trial.state") not in COMPLETE)
    counting: dict[str, Run] = {}
    for run in runs:
        counting.setdefault(run.data.tags["trial.digest"], run)

    def read(run: Run) -> Trial:
        artifacts = ledger.store.json_artifacts(run.info.run_id, {"trial.json", "validation"})
        return _trial(ledger, run, trial_record(run, artifacts, ledger.curve))

    return dict(zip(counting, ledger.store.read_all(read, list(counting.values())), strict=True))


def _trial(ledger: Ledger, run: Run, record: TrialRecord) -> Trial:
    by_epoch = [name for name in run.data.metrics if name.startswith(tuple(OF_SUITE.values()))]
    scores = {name: dict(ledger.curve(record.run_id, name)) for name in by_epoch}
    return Trial(record, dict(run.data.tags), scores, tuple(ledger.curve(record.run_id, ACCURACY_CURVE)))


def _stage(ledger: Ledger, experiment_id: str, run: Run, trials: dict[str, Trial]) -> StageRun:
    artifacts = ledger.store.json_artifacts(run.info.run_id, {GRID, "ranking.json"})
    points = tuple(
        Point(one["label"], tuple(trials[d] for d in one["digests"] if d in trials), len(one["digests"]))
        for one in artifacts.get(GRID, [])
    )
    table = artifacts.get("ranking.json", {"columns": [], "data": []})
    return StageRun(
        run_id=run.info.run_id,
        name=run.data.tags["stage.name"],
        objective=run.data.tags["stage.objective"],
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        ended_ms=run.info.end_time or 0,
        points=points,
        children=tuple(children_of(ledger.store, experiment_id, run.info.run_id)),
        ranking=tuple(dict(zip(table["columns"], row, strict=True)) for row in table["data"]),
        study=_study(ledger, run),
    )


def read_files(ledger: Ledger, run_id: str, folder: str, names: tuple[str, ...]) -> dict[str, str]:
    """Name -> text of the files that are there."""
    client, found = ledger.store.client, {}
    with ledger.store.reading(), tempfile.TemporaryDirectory() as place:
        there = {item.path for item in client.list_artifacts(run_id, folder)}
        for name in names:
            if f"{folder}/{name}" in there:
                found[name] = Path(client.download_artifacts(run_id, f"{folder}/{name}", place)).read_text("utf-8")
    return found


def _study(ledger: Ledger, run: Run) -> tuple[dict[str, str], ...]:
    if run.data.tags["stage.objective"]:
        return ()
    file = f"{run.data.tags['stage.name']}.csv"
    return tuple(csv.DictReader(read_files(ledger, run.info.run_id, "tables", (file,)).get(file, "").splitlines()))


def judged_alone(ledger: Ledger, model: str) -> dict[str, float]:
    """What `mmpo judge MODEL --mlflow-uri …` recorded of the starting model; the last value of each."""
    with ledger.store.reading():
        experiment_id = ledger.store.experiment_id(JUDGED_ALONE, create=False)
        runs = ledger.store.search(experiment_id, {})
    found: dict[str, float] = {}
    for run in runs:
        if run.data.params.get("path") == model:
            found |= run.data.metrics
    return found
