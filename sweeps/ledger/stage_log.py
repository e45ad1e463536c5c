"""The record of a stage: its parent run, its trials, its tables and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_workers.tracking.addresses import page
from eval_workers.tracking.datasets import log_datasets
from mmpo_train.config import TrialConfig
from sweeps.grids import margin_of
from sweeps.ledger.chosen import Contender, register
from sweeps.ledger.open_trials import OpenTrials
from sweeps.ledger.records import SEARCHES, TrialRecord
from sweeps.ledger.runs import mark_winner, take
from sweeps.ledger.saved_views import SHOWN
from sweeps.ledger.tags import DO
from sweeps.ledger.trial_log import SECONDS_TO_DELIVER, TrialLog, now_ms, opening

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mmpo_train.prepare import Inputs

NOTE, WRITTEN = "mlflow.note.content", "stage.note"
"""The description, which a person may change, and the text that was last written there."""


class StageLog:
    """A stage's parent run. All writing returns at once; files must stay until they have been sent."""

    def __init__(self, trials: OpenTrials, experiment: str, run: Run, search: str = ""):
        self._trials, self._store, self._experiment = trials, trials.store, experiment
        self._experiment_id, self.run_id = run.info.experiment_id, run.info.run_id
        self.tags = dict(run.data.tags)
        """The tags when the stage was opened, with a person's changes, and those set since."""
        self._stage, self._search, self._title = self.tags["stage.name"], search, run.info.run_name
        self._metrics = dict(run.data.metrics)
        self._tables: list[dict[str, str]] = json.loads(self.tags.get("mlflow.loggedArtifacts", "[]"))

    @property
    def page(self) -> str:
        """The address of its saved view in a browser."""
        return f"{page(self._store.address, self._experiment_id)}&{SHOWN}={self.run_id}"

    def open_trial(self, config: TrialConfig, name: str, tags: Mapping[str, str], below: str = "") -> TrialLog:
        """The trial's log. Its run is found or created in the background, below the stage's or that of another trial.
        Raises TrialTaken if another driver has it."""
        margin = margin_of(config.objective)
        searches = {SEARCHES: self._search} if self._search else {}
        said = f"A trial of {self._stage}. Its checkpoints are in {self._trials.folder / config.digest}."
        labels = {"stage.name": self._stage, NOTE: said, **searches, **tags}
        opened = opening(config, self._experiment, name, labels, below or self.run_id)
        # MLflow's parallel coordinates leave out runs that lack one of the params.
        opened["margin"] = getattr(config, margin) if margin else 0.0
        return self._trials.open(opened, config.digest)

    def log_data(self, inputs: Inputs) -> None:
        """List the preference data of the stage's trials, with the number of examples."""
        data, config = inputs.data, inputs.config
        rows = {"train": len(data.train), "validation": len(data.validation)}
        about = config.dataset, config.data_fingerprint, rows
        self._put(lambda: log_datasets(self._store, self.run_id, *about), "the data")

    def asked(self) -> dict[str, str]:
        """Run -> what a person asks of it by the tag DO, in the whole experiment. Raises InputError without MLflow."""
        with self._store.reading():
            return self._store.tagged(self._experiment_id, DO)

    def log_file(self, path: Path, artifact_folder: str = "") -> None:
        """Store a file. MLflow's pages show HTML and images."""
        if not path.is_file():
            raise FileNotFoundError(path)
        client = self._store.client
        self._put(lambda: client.log_artifact(self.run_id, str(path), artifact_folder or None), path.name)

    def log_json(self, path: str, value: Any) -> None:
        """Store a value."""
        self._put(lambda: self._store.log_json(self.run_id, value, path), path)

    def log_text(self, path: str, text: str) -> None:
        """Store a text."""
        self._put(lambda: self._store.client.log_text(self.run_id, text, path), path)

    def log_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store a table, as `<name>.json`, that MLflow can compare across runs, replacing an earlier one of this name.

        MLflow's own `log_table` appends, so a resumed stage would list every trial twice.
        """
        path = f"{name}.json"
        rows = [[_finite_or_none(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
        self.log_json(path, {"columns": list(columns), "data": rows})
        if {"path": path, "type": "table"} not in self._tables:
            self._tables.append({"path": path, "type": "table"})
        self.tag({"mlflow.loggedArtifacts": json.dumps(self._tables)})

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the stage."""
        self.tags |= {name: str(value) for name, value in tags.items()}
        self._put(lambda: self._store.log_tags(self.run_id, tags), "tags")

    def describe(self, markdown: str) -> None:
        """Set the run's description, unless a person has written one."""
        if self.tags.get(NOTE) == self.tags.get(WRITTEN):
            self.tag({NOTE: markdown, WRITTEN: markdown})

    def take(self, record: TrialRecord, name: str) -> None:
        """Show a trial of another stage: create or update its stand-in below this stage."""
        self._put(lambda: take(self._store, record.run_id, self.run_id, self._stage, name), f"{name}, taken")

    def mark_winner(self, digests: Collection[str]) -> None:
        """Tag the runs of these trials as the winner by rule, and no others."""
        ids = (self._experiment_id, self.run_id)
        self._put(lambda: mark_winner(self._store, *ids, digests, self._search), "the winner's tag")

    def register(self, contenders: Sequence[Contender]) -> None:
        """Show the best points as versions of the stage's registered model; the alias is on the first, the winner."""
        about = (self.run_id, self._experiment, self._title, contenders)
        self._put(lambda: register(self._store, *about), "the registered model")

    def score(self, epoch: int, metrics: Mapping[str, float | None]) -> None:
        """The winner's numbers as metrics of the stage, so that stages compare in MLflow's table."""
        new = {name: value for name, value in metrics.items() if value is not None and self._metrics.get(name) != value}
        self._metrics |= new
        batch = [(name, value, now_ms(), epoch) for name, value in new.items()]
        self._put(lambda: self._store.log_metrics(self.run_id, batch), "the winner's numbers")

    def finish(self, winner: TrialRecord | None, tags: Mapping[str, Any]) -> None:
        """Mark the stage as finished, with its winner if there is one."""
        chosen = {} if winner is None else {"stage.winner_run_id": winner.run_id, "stage.winner_digest": winner.digest}
        self.tag({"stage.state": "finished", **chosen, **tags})
        self._put(lambda: self._store.client.set_terminated(self.run_id, "FINISHED"), "the end")

    def fail(self, reason: str) -> None:
        """Mark the stage as failed; it can be run again."""
        self.tag({"stage.state": "failed", "stage.reason": reason})
        self._put(lambda: self._store.client.set_terminated(self.run_id, "FAILED"), "the end")

    def break_off(self) -> None:
        """`fail` in a process that ends at once: returns when MLflow has it, or when for ten seconds nothing got
        through."""
        self.fail("interrupted")
        self._trials.delivery.wait(SECONDS_TO_DELIVER)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A block whose error, an interruption too, marks the stage as failed: it must not show as running forever."""
        try:
            yield
        except BaseException as error:  # Ctrl-C and SIGTERM too; it is raised again
            self.fail("interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}")
            raise

    def _put(self, job: Callable[[], None], what: str) -> None:
        self._trials.delivery.put(job, f"{what} of {self._stage}")


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
