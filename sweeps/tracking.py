"""The ledger: what was run, how it went and what was chosen, in MLflow.

One experiment per model and dataset, a parent run per stage and objective, a child run per trial. One thread
writes, from journals that survive a kill: what a trial logs stands in `<storage>/trials/<digest>/points.jsonl`
before MLflow hears of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.config import TrialConfig, to_dict
from mmpo_train.errors import InputError
from sweeps import addresses
from sweeps.addresses import masked
from sweeps.delivery import Delivery
from sweeps.journal import FILE_NAME, Journal, TrialTaken, read_entries
from sweeps.mlflow_store import Store
from sweeps.trial_log import Point, TrialLog, now_ms

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["Evaluation", "Ledger", "Point", "StageLog", "StageRecord", "TrialLog", "TrialRecord", "TrialTaken", "connect"]

log = logging.getLogger(__name__)

COMPLETE = ("finished", "diverged")
READ_SECONDS = 60.0


@dataclass(frozen=True)
class Evaluation:
    """What one checkpoint scored."""

    epoch: int
    metrics: dict[str, float | None]
    """None where a value was not finite."""
    correct: tuple[int, ...]
    """1 for each validation pair whose chosen completion scored higher, in dataset order."""
    checkpoint: str


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the ledger has it."""

    run_id: str
    digest: str
    name: str
    status: str
    """finished, diverged, failed, or running (the last also after a kill)."""
    params: dict[str, str]
    config: dict[str, Any]
    """The fields of its TrialConfig; empty when a kill came before they were stored."""
    evaluations: tuple[Evaluation, ...]
    reason: str
    """Why it diverged or failed."""
    seconds: float | None
    ledger: Ledger = field(repr=False, compare=False)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) in order of steps."""
        return self.ledger.curve(self.run_id, metric)


@dataclass(frozen=True)
class StageRecord:
    """A stage as the ledger has it. Its tags are a person's to change."""

    run_id: str
    title: str
    grid_key: str
    tags: dict[str, str]


def connect(tracking_uri: str | None, storage: Path) -> Ledger:
    """The ledger at an MLflow address; by default `sqlite:///<storage>/mlflow.db`, artifacts in `<storage>/mlartifacts`.

    Raises InputError within seconds for an address that cannot be used.
    """
    address = addresses.resolve(tracking_uri, storage)
    return Ledger(Store(address, storage.resolve()), storage.resolve())


class Ledger:
    """Readers wait for what was written before; writers return at once and one thread delivers in order."""

    def __init__(self, store: Store, storage: Path):
        self._store, self._trials_folder = store, storage / "trials"
        self._delivery = Delivery(f"MLflow at {self.uri}", store.may_pass, masked)
        self._trials: dict[str, TrialLog] = {}

    @property
    def uri(self) -> str:
        """The address, without credentials."""
        return self._store.address.shown

    def ui_command(self) -> str:
        """The command that shows this ledger in a browser, or the server's own address."""
        return addresses.ui_command(self._store.address)

    def find_trial(self, experiment: str, digest: str) -> TrialRecord | None:
        """The trial's record, a complete one before any other.

        A trial that ended while MLflow was away is delivered from its journal first. Where several runs are
        complete the oldest counts, and all others are tagged `duplicate_of`.
        """
        self.flush(READ_SECONDS)
        run = self._find_run(experiment, digest)
        if (run is None or run.data.tags.get("trial.state") not in COMPLETE) and self._recover(experiment, digest):
            self.flush(READ_SECONDS)
            run = self._find_run(experiment, digest)
        return None if run is None else self._record(run)

    def read_trial(self, run_id: str) -> TrialRecord:
        """The record of one run. Raises InputError when there is no such trial."""
        with self._store.reading():
            run = self._store.client.get_run(run_id)
        return self._record(run)

    def find_stages(self, experiment: str, stage: str, objective: str) -> list[StageRecord]:
        """The stage's runs, one for each grid, the latest last, with the tags as a person left them."""
        self.flush(READ_SECONDS)
        with self._store.reading():
            experiment_id = self._store.experiment_id(experiment, create=False)
            runs = self._store.search(experiment_id, {"stage.name": stage, "stage.objective": objective})
        tags_of = {run.info.run_id: dict(run.data.tags) for run in runs}
        return [
            StageRecord(run.info.run_id, run.info.run_name, tags["stage.grid_key"], tags)
            for run, tags in zip(runs, tags_of.values(), strict=True)
            if "stage.grid_key" in tags and "duplicate_of" not in tags
        ]

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) in order of steps."""
        with self._store.reading():
            history = self._store.client.get_metric_history(run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def open_stage(
        self,
        experiment: str,
        stage: str,
        objective: str,
        grid_key: str,
        *,
        title: str,
        params: Mapping[str, Any],
        note: str,
    ) -> StageLog:
        """The stage's parent run, found by its tags or else made. A note that is there already is left alone."""
        identity = {"stage.name": stage, "stage.objective": objective, "stage.grid_key": grid_key}
        with self._store.reading():
            experiment_id = self._store.experiment_id(experiment)
            run = self._store.find_or_create(experiment_id, identity, {"mlflow.note.content": note}, title, now_ms())
            self._store.client.update_run(run.info.run_id, status="RUNNING")
            self._store.log_tags(run.info.run_id, {"stage.state": "running"})
            self._store.log_params(run, params)
        return StageLog(self, experiment, stage, run.info.run_id, dict(run.data.tags))

    def open_trial(self, opened: Mapping[str, Any], digest: str) -> TrialLog:
        """What `StageLog.open_trial` calls. Raises TrialTaken when another driver has the trial."""
        held = self._take(digest)
        held.append({**opened, "journal": held.identity}, durable=True)
        return self._trial_log(held)

    def flush(self, timeout_seconds: float) -> None:
        """Returns when all is delivered. Raises TimeoutError, saying where the rest is safe, when it is not in time."""
        waiting = self._delivery.wait(timeout_seconds)
        if waiting:
            why = f" ({self._delivery.problem[:300]})" if self._delivery.problem else ""
            raise TimeoutError(
                f"{waiting} writes to MLflow at {self.uri} still wait after {timeout_seconds:g} s{why}. What the "
                f"trials logged is safe in {self._trials_folder}; the same command, run again, delivers it."
            )

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Deliver what can be in the time, warn about the rest, and let go of all trials."""
        try:
            self.flush(timeout_seconds)
        except TimeoutError as error:
            log.warning("%s", error)
        self._delivery.stop()
        for trial in self._trials.values():
            trial.let_go()

    def put(self, job: Callable[[], None], what: str) -> None:
        """Queue a write behind all others; `what` names it in messages."""
        self._delivery.put(job, what)

    @property
    def store(self) -> Store:
        """For the jobs that are put."""
        return self._store

    def _take(self, digest: str) -> Journal:
        former = self._trials.get(digest)
        # A retry need not wait until the end of the failed attempt is delivered.
        held = former.hand_over() if former is not None else None
        return held or Journal(self._trials_folder / digest)

    def _trial_log(self, held: Journal) -> TrialLog:
        opened = [entry for entry in held.entries if entry["kind"] == "opened"][-1]
        self._trials[held.digest] = TrialLog(self._store, self._delivery, held, opened)
        return self._trials[held.digest]

    def _recover(self, experiment: str, digest: str) -> bool:
        """Whether the journal holds a complete end that this ledger never received; it is queued then."""
        latest = {entry["kind"]: entry for entry in read_entries(self._trials_folder / digest / FILE_NAME)}
        after_opening = list(latest)
        if "opened" not in latest or latest["opened"]["experiment"] != experiment:
            return False
        raise NotImplementedError(after_opening)

    def _find_run(self, experiment: str, digest: str) -> Run | None:
        """The run that counts for a trial: complete before incomplete, then the oldest."""
        with self._store.reading():
            experiment_id = self._store.experiment_id(experiment, create=False)
            runs = self._store.search(experiment_id, {"trial.digest": digest})
            runs = [run for run in runs if "duplicate_of" not in run.data.tags] or runs
            runs.sort(key=lambda run: run.data.tags.get("trial.state") not in COMPLETE)
            # Among incomplete runs the younger may still become the one that counts.
            if runs and runs[0].data.tags.get("trial.state") in COMPLETE:
                self._store.mark_duplicates(runs[0], runs[1:])
        return runs[0] if runs else None

    def _record(self, run: Run) -> TrialRecord:
        tags, run_id = run.data.tags, run.info.run_id
        if "trial.digest" not in tags:
            raise InputError(f"run {run_id} of MLflow at {self.uri} is no trial: it has no tag trial.digest")
        with self._store.reading():
            artifacts = self._store.json_artifacts(run_id, {"trial.json", "validation"})
        config = artifacts.pop("trial.json", {})
        return TrialRecord(
            run_id=run_id,
            digest=tags["trial.digest"],
            name=run.info.run_name,
            status=tags.get("trial.state", "running"),
            params=dict(run.data.params),
            config=config,
            evaluations=tuple(
                Evaluation(scored["epoch"], scored["scores"], tuple(scored["correct"]), scored["checkpoint"])
                for scored in artifacts.values()
            ),
            reason=tags.get("trial.reason", ""),
            seconds=float(tags["trial.seconds"]) if "trial.seconds" in tags else None,
            ledger=self,
        )


class StageLog:
    """A stage's parent run. All writing returns at once; files must stay until they are delivered."""

    def __init__(self, ledger: Ledger, experiment: str, stage: str, run_id: str, tags: dict[str, str]):
        self._ledger, self._experiment, self._stage = ledger, experiment, stage
        self.run_id = run_id
        self.tags = tags
        """As they were when the stage was opened, a person's changes included."""
        self._tables: list[dict[str, str]] = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))

    def open_trial(self, config: TrialConfig, name: str, tags: Mapping[str, str]) -> TrialLog:
        """The trial's log; its run is found or made in the background. Raises TrialTaken when another driver has it."""
        values = {key: masked(value) if isinstance(value, str) else value for key, value in to_dict(config).items()}
        opened = {
            "kind": "opened",
            "timestamp_ms": now_ms(),
            "experiment": self._experiment,
            "parent": self.run_id,
            "name": name,
            "tags": {"stage.name": self._stage, **tags},
            "config": values,
            # MLflow's parallel coordinates have no log axis.
            "log10_learning_rate": round(math.log10(config.learning_rate), 4),
        }
        return self._ledger.open_trial(opened, config.digest)

    def log_file(self, path: Path, artifact_folder: str = "") -> None:
        """Store a file; HTML and images show in MLflow's pages."""
        if not path.is_file():
            raise FileNotFoundError(path)
        client = self._ledger.store.client
        self._put(lambda: client.log_artifact(self.run_id, str(path), artifact_folder or None), path.name)

    def log_figure(self, path: Path, artifact_folder: str = "figures") -> None:
        """Store a picture."""
        self.log_file(path, artifact_folder)

    def log_json(self, name: str, value: Any) -> None:
        """Store a value as `<name>.json`."""
        path = name if name.endswith(".json") else f"{name}.json"
        self._put(lambda: self._ledger.store.client.log_dict(self.run_id, value, path), path)

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store a table MLflow can compare across runs, in the place of an earlier one of this name.

        MLflow's own `log_table` appends, so a resumed stage would list every trial twice.
        """
        path = name if name.endswith(".json") else f"{name}.json"
        rows = [[_finite_or_none(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
        self.log_json(path, {"columns": list(columns), "data": rows})
        if {"path": path, "type": "table"} not in self._tables:
            self._tables.append({"path": path, "type": "table"})
        self.tag({"mlflow.loggedArtifacts": json.dumps(self._tables)})

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the stage."""
        self._put(lambda: self._ledger.store.log_tags(self.run_id, tags), "tags")

    def finish(self, winner: TrialRecord | None, tags: Mapping[str, Any]) -> None:
        """All trials have ended; without a winner there is none to hand to the next stage."""
        chosen = {} if winner is None else {"stage.winner_run_id": winner.run_id, "stage.winner_digest": winner.digest}
        self.tag({"stage.state": "finished", **chosen, **tags})
        self._put(lambda: self._ledger.store.client.set_terminated(self.run_id, "FINISHED"), "the end")

    def fail(self, reason: str) -> None:
        """The stage broke off and may be run again."""
        self.tag({"stage.state": "failed", "stage.reason": reason})
        self._put(lambda: self._ledger.store.client.set_terminated(self.run_id, "FAILED"), "the end")

    def _put(self, job: Callable[[], None], what: str) -> None:
        self._ledger.put(job, f"{what} of {self._stage}")


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
