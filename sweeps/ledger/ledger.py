"""The ledger: the record of trials, their results and the choices made from them, in MLflow.

There is one experiment per model and dataset, a parent run per stage and objective, and a child run per trial. One
thread writes, from journals that survive a kill: all that a trial logs is in `<storage>/trials/<digest>/points.jsonl`
before it is sent to MLflow.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_workers.tracking import addresses
from eval_workers.tracking.source import source_tags
from eval_workers.tracking.store import Store
from mmpo_train.errors import InputError
from mmpo_train.metric_names import OF_SUITE, VALIDATION
from mmpo_train.storage.mirror import address_of
from sweeps.ledger.chosen import REGISTERED, persons_run
from sweeps.ledger.moved import checkpoint_now, settle
from sweeps.ledger.open_trials import OpenTrials
from sweeps.ledger.records import COMPLETE, SEARCHES, ChildRecord, Curve, StageRecord, TrialRecord, trial_record
from sweeps.ledger.runs import FEW, children_of, runs_that_count
from sweeps.ledger.saved_views import save_views
from sweeps.ledger.stage_log import NOTE, WRITTEN, StageLog
from sweeps.ledger.tags import CLONED_IN, SHARED, TRAINING
from sweeps.ledger.trial_log import TrialLog, now_ms

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

READ_SECONDS, CLOSE_SECONDS = 60.0, 30.0
FLUSH_SECONDS = 120.0
"""Time that the end of a sweep waits for MLflow without a single successful write."""


def connect(tracking_uri: str | None, storage: Path) -> Ledger:
    """The ledger at an MLflow address, by default `sqlite:///<storage>/mlflow.db`.

    Without a server, artifacts are stored in `<storage>/mlartifacts`. Raises InputError within seconds for an address
    that cannot be used.
    """
    address = addresses.resolve(tracking_uri, storage)
    if address.database == storage.resolve() / "mlflow.db" and not address_of(storage):
        settle(address.database)
    return Ledger(Store(address, storage.resolve()), storage.resolve())


def _has_ended(run: Run) -> bool:
    """Whether a complete end was delivered as a whole."""
    return run.data.tags.get("trial.state") in COMPLETE and run.info.status != "RUNNING"


def connect_to_read(tracking_uri: str | None, storage: Path) -> Ledger | None:
    """The ledger if it exists; None if connecting would create it."""
    return connect(tracking_uri, storage) if addresses.is_there(tracking_uri, storage) else None


class Ledger:
    """Reading waits for earlier writes. Writing returns at once; one thread sends the writes in order."""

    def __init__(self, store: Store, storage: Path):
        self.store, self._storage = store, storage
        self._trials = OpenTrials(store, storage / "trials")

    @property
    def uri(self) -> str:
        """The address, without credentials."""
        return self.store.address.shown

    def ui_command(self) -> str:
        """The command that shows this ledger in a browser, or the server's own address."""
        return addresses.ui_command(self.store.address)

    def page(self, experiment: str) -> str:
        """The address of an experiment's runs in a browser."""
        with self.store.reading():
            return addresses.page(self.store.address, self.store.experiment_id(experiment))

    def require_free(self, digests: Sequence[str]) -> None:
        """Raises TrialTaken if another driver has one of the trials."""
        for digest in digests:
            self._trials.take(digest).close()

    def find_trial(self, experiment: str, digest: str) -> TrialRecord | None:
        """The trial's record, as `find_trials` finds it."""
        return self.find_trials(experiment, [digest]).get(digest)

    def find_trials(self, experiment: str, digests: Sequence[str]) -> dict[str, TrialRecord]:
        """Digest -> record of the trials that the ledger has, complete ones preferred.

        A trial that ended while MLflow could not be reached is sent from its journal first, and so is one of which
        MLflow has lost the file of an evaluation. Of several complete runs the oldest counts, and all others are tagged
        `duplicate_of`.
        """
        self.flush(READ_SECONDS)
        runs = self._find_runs(experiment, digests)
        missing = [digest for digest in digests if digest not in runs or not _has_ended(runs[digest])]
        recovered = [digest for digest in missing if self._trials.recover(experiment, digest)]
        records = self._records({digest: run for digest, run in runs.items() if digest not in recovered})
        for digest, record in records.items():
            there = len(record.evaluations) if record.config else -1
            if record.status == "finished" and there < int(record.config.get("epochs", 0)):
                recovered += [digest] * self._trials.recover(experiment, digest, there)
        if recovered:
            self.flush(READ_SECONDS)
            records |= self._records(self._find_runs(experiment, recovered))
        return records

    def find_clones(self, experiment: str, stage_run_id: str) -> dict[str, TrialRecord]:
        """Digest -> record of the clones that were made in a stage, the oldest first."""
        self.flush(READ_SECONDS)
        with self.store.reading():
            experiment_id = self.store.experiment_id(experiment, create=False)
            runs = self.store.search(experiment_id, {CLONED_IN: stage_run_id})
        return self.find_trials(experiment, list(dict.fromkeys(run.data.tags["trial.digest"] for run in runs)))

    def find_trainings(self, experiment: str, trainings: Collection[str]) -> dict[str, TrialRecord]:
        """Name of a training -> the finished trial that was trained under it; of several the oldest."""
        kind = {"ledger.kind": "trial", "trial.state": "finished"}
        wanted = [kind] if len(trainings) > FEW else [{**kind, TRAINING: training} for training in trainings]
        found: dict[str, Run] = {}
        with self.store.reading():
            experiment_id = self.store.experiment_id(experiment, create=False)
            for run in (run for tags in wanted for run in self.store.search(experiment_id, tags)):
                training = run.data.tags.get(TRAINING, "")
                if training in trainings and not {SHARED, "duplicate_of"} & run.data.tags.keys():
                    found.setdefault(training, run)
        return self._records(found)

    def name_training(self, record: TrialRecord, training: str) -> None:
        """Write on a trial's run under which name `find_trainings` finds it."""
        with self.store.reading():
            self.store.log_tags(record.run_id, {TRAINING: training})

    def evaluations_of(self, run_id: str) -> tuple[dict[str, Curve], dict[str, str]]:
        """What evaluations other than reward accuracy left on a trial's run: metric -> curve over epochs, and tags."""
        groups = tuple(group for group in OF_SUITE.values() if group != VALIDATION)
        with self.store.reading():
            data = self.store.client.get_run(run_id).data
        tags = {name: value for name, value in data.tags.items() if name.startswith("evaluation.")}
        return {name: self.curve(run_id, name) for name in data.metrics if name.startswith(groups)}, tags

    def discard(self, record: TrialRecord) -> None:
        """Delete a trial's run and journal, so that it can be trained. MLflow can restore a deleted run."""
        self._trials.discard(record.digest)
        with self.store.reading():
            self.store.client.delete_run(record.run_id)

    def read_trial(self, run_id: str) -> TrialRecord:
        """The record of one run. Raises InputError if there is no such trial."""
        with self.store.reading():
            run = self.store.client.get_run(run_id)
        return self._record(run)

    def find_stages(self, experiment: str, stage: str, objective: str) -> list[StageRecord]:
        """The stage's runs, one for each grid, the latest last, with the tags that a person may have changed."""
        self.flush(READ_SECONDS)
        with self.store.reading():
            experiment_id = self.store.experiment_id(experiment, create=False)
            wanted = {"ledger.kind": "stage", "stage.name": stage, "stage.objective": objective}
            runs = [run for run in self.store.search(experiment_id, wanted) if "duplicate_of" not in run.data.tags]
        return [StageRecord(run.info.run_id, run.info.run_name, run.data.tags, run.info.end_time or 0) for run in runs]

    def find_children(self, experiment: str, stage_run_id: str) -> list[ChildRecord]:
        """The runs below a stage, with the tags that a person may have changed."""
        self.flush(READ_SECONDS)
        with self.store.reading():
            return children_of(self.store, self.store.experiment_id(experiment, create=False), stage_run_id)

    def persons_version(self, stage: StageRecord) -> str:
        """The trial's run that a person chose by moving the alias of the stage's registered model; empty if nobody
        did."""
        with self.store.reading():
            return persons_run(self.store, stage.tags.get(REGISTERED, ""))

    def json_artifact(self, run_id: str, path: str) -> Any:
        """A JSON artifact of a run; None if it is missing or incomplete."""
        with self.store.reading():
            return self.store.json_artifacts(run_id, {path}).get(path)

    def look_up(self, experiment: str, digest: str) -> TrialRecord | None:
        """The trial's record, as `look_up_trials` finds it."""
        return self.look_up_trials(experiment, [digest]).get(digest)

    def look_up_trials(self, experiment: str, digests: Sequence[str]) -> dict[str, TrialRecord]:
        """The records at present. Unlike `find_trials` it writes nothing, not even from journals."""
        return self._records(self._find_runs(experiment, digests, mark=False))

    def curve(self, run_id: str, metric: str) -> Curve:
        """The values of a metric of a run."""
        with self.store.reading():
            history = self.store.client.get_metric_history(run_id, metric)
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
        search: str = "",
    ) -> StageLog:
        """The stage's parent run, found by its tags or else made. A note that is there already is left alone.

        `search` is the key of the search that it belongs to; a run may serve several.
        """
        identity = {"ledger.kind": "stage", "stage.name": stage, "stage.objective": objective}
        identity["stage.grid_key"] = grid_key
        with self.store.reading():
            experiment_id = self.store.experiment_id(experiment)
            run = self.store.find_or_create(experiment_id, identity, {NOTE: note, WRITTEN: note}, title, now_ms())
            self.store.client.update_run(run.info.run_id, status="RUNNING")
            state = {"stage.state": "running", **source_tags()}
            if search:
                state[SEARCHES] = " ".join(dict.fromkeys([*run.data.tags.get(SEARCHES, "").split(), search]))
                run.data.tags[SEARCHES] = state[SEARCHES]
            self.store.log_tags(run.info.run_id, state)
            if "stage.reason" in run.data.tags:
                self.store.client.delete_tag(run.info.run_id, "stage.reason")
            self.store.log_params(run, params)
            save_views(self.store, experiment_id, run.info.run_id, title, objective, search)
        return StageLog(self._trials, experiment, run, search)

    def open_trial(self, opened: Mapping[str, Any], digest: str) -> TrialLog:
        """A trial of no stage. Raises TrialTaken when another driver has it."""
        return self._trials.open(opened, digest)

    def flush(self, timeout_seconds: float) -> None:
        """Return when all writes have been sent. Raises TimeoutError, naming the place of the others, if none succeeded
        for this long."""
        safe = f"What the trials logged is safe in {self._trials.folder}; run the same command again to send it."
        self._trials.delivery.flush(timeout_seconds, safe)

    def close(self) -> None:
        """Deliver what can be in CLOSE_SECONDS, warn about the rest, and let go of all trials."""
        try:
            self.flush(CLOSE_SECONDS)
        except TimeoutError as error:
            log.warning("%s", error)
        self._trials.close()

    def _find_runs(self, experiment: str, digests: Sequence[str], *, mark: bool = True) -> dict[str, Run]:
        with self.store.reading():
            return runs_that_count(self.store, self.store.experiment_id(experiment, create=False), digests, mark=mark)

    def _records(self, runs: Mapping[str, Run]) -> dict[str, TrialRecord]:
        return dict(zip(runs, self.store.read_all(self._record, list(runs.values())), strict=True))

    def _record(self, run: Run) -> TrialRecord:
        if "trial.digest" not in run.data.tags:
            raise InputError(f"run {run.info.run_id} of MLflow at {self.uri} is not a trial: no tag trial.digest")
        with self.store.reading():
            artifacts = self.store.json_artifacts(run.info.run_id, {"trial.json", "validation"})
        for scored in artifacts.values():
            if isinstance(scored, dict) and "checkpoint" in scored:
                scored["checkpoint"] = checkpoint_now(scored["checkpoint"], self._storage / "trials")
        return trial_record(run, artifacts, self.curve)
