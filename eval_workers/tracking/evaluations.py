"""Models that were judged by themselves, as runs of the experiment `evaluations`. Sweeps have a ledger of their own."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

from eval_workers.tracking.addresses import resolve
from eval_workers.tracking.delivery import Delivery
from eval_workers.tracking.source import source_tags
from eval_workers.tracking.store import Store
from eval_workers.tracking.traces import log_pairs

EXPERIMENT = "evaluations"
FLUSH_SECONDS = 60.0
"""Time that the end of a command waits for MLflow without a single successful write."""


class Evaluations:
    """Runs are recorded in the background; what MLflow does not take at once is tried again until the end."""

    def __init__(self, uri: str, storage: Path):
        """Raises InputError within seconds for an address that cannot be used."""
        self._store = Store(resolve(uri, storage, "--mlflow-uri"), storage.resolve())
        with self._store.reading():
            self._experiment_id = self._store.experiment_id(EXPERIMENT)
        self._delivery = Delivery(f"MLflow at {self._store.address.shown}", self._store.may_pass)
        self._refused: list[str] = []

    def record(
        self, name: str, key: str, params: Mapping[str, str], metrics: Mapping[str, float], folder: Path
    ) -> None:
        """A finished run with the folder's files as artifacts, found by `key` or else made: recorded twice, it is one.
        `key` names what was judged and how. Where a score has changed since, the run shows the new one."""
        now = int(time.time() * 1000)  # the same for each try, so that none doubles a point

        def deliver() -> None:
            identity = {"ledger.kind": "evaluation", "evaluation.key": key}
            run = self._store.find_or_create(self._experiment_id, identity, source_tags(), name, now)
            self._store.log_params(run, params)
            finite = {metric: value for metric, value in metrics.items() if math.isfinite(value)}
            new = [(one, value, now, 0) for one, value in finite.items() if run.data.metrics.get(one) != value]
            self._store.log_metrics(run.info.run_id, new)
            self._store.client.log_artifacts(run.info.run_id, str(folder))
            log_pairs(self._store, run.info.run_id, folder, name)
            self._store.client.set_terminated(run.info.run_id, "FINISHED")

        self._delivery.put(deliver, f"the scores of {name}", lambda: self._refused.append(name))

    def finish(self, timeout_seconds: float = FLUSH_SECONDS) -> list[str]:
        """Results that could not be recorded, in sentences; empty if all were."""
        late = []
        try:
            self._delivery.flush(timeout_seconds, "The same command, run again, records them.")
        except TimeoutError as error:
            late = [str(error)]
        self._delivery.stop()
        return [f"MLflow refused the scores of {name}" for name in self._refused] + late
