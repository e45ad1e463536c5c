"""The record of a trial: first its journal, then, in the ledger's writer thread, its MLflow run."""

import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval_workers.tracking.datasets import log_datasets
from eval_workers.tracking.delivery import Delivery
from eval_workers.tracking.models import Checkpoints, log_checkpoints
from eval_workers.tracking.source import environment, source_tags
from eval_workers.tracking.store import METRICS_PER_BATCH, Store
from eval_workers.tracking.traces import log_pairs
from mmpo_train.config import TrialConfig, to_dict
from mmpo_train.events import Point
from mmpo_train.metric_names import REWARD_ACCURACY, harness_task
from mmpo_train.sft.trial import SFTTrial
from sweeps.ledger.journal import Journal, judged_suites
from sweeps.ledger.tags import DO, ending_tags

SECONDS_TO_DELIVER = 10.0
"""How long the last words of a process wait for MLflow to take anything."""
_OF_MODELS = ("model", "dataset", "objective", "learning_rate", "beta", "margin", "epochs", "seed")
"""Params of a trial that its models have too."""
_METRIC_NAME = re.compile(r"[/\w.\-: ]{1,250}")


def opening(
    trial: TrialConfig | SFTTrial, experiment: str, name: str, tags: Mapping[str, str], parent: str = ""
) -> dict[str, Any]:
    """The first entry of a trial's journal, from which its MLflow run is made, for `Ledger.open_trial`."""
    return {
        "kind": "opened",
        "timestamp_ms": now_ms(),
        "experiment": experiment,
        "parent": parent,
        "name": name,
        "tags": {**source_tags(), **tags},
        "config": to_dict(trial),
        # MLflow's parallel coordinates have no log axis.
        "log10_learning_rate": round(math.log10(trial.learning_rate), 4),
    }


class TrialLog:
    """A trial's run and journal, owned by one driver. All writing returns at once and keeps its order."""

    def __init__(self, store: Store, delivery: Delivery, held: Journal, opened: Mapping[str, Any]):
        """Queue the run's opening and all entries that the journal already has, with their own timestamps."""
        self._store, self._delivery = store, delivery
        self._journal: Journal | None = held
        self._opened, self.digest = opened, held.digest
        self.run_id: str | None = None
        """Known once the run's opening has been sent."""
        self.ended = False
        self._unsent: list[tuple[str, float, int, int]] = []
        self._sending = False
        self._mutex = threading.Lock()
        self._there: dict[tuple[str, int], tuple[float, int]] = {}
        """Metrics and steps that MLflow has and a damaged journal may not: with another time they would be doubled."""
        self._queue(lambda: self._deliver_opening(held), "the opening")
        self._send([entry for entry in held.entries if "metrics" in entry])
        for entry in held.entries:
            if entry["kind"] == "evaluation":
                self._put_evaluation(entry)
            elif entry["kind"] == "suite":
                self.tag(entry["tags"])

    def judged(self, epoch: int) -> set[str]:
        """The evaluations that have judged the checkpoint of an epoch, before an interruption too."""
        return judged_suites(self._own_journal().entries).get(epoch, set())

    def reward_accuracy(self, epoch: int) -> float | None:
        """What the checkpoint of an epoch scored, if it was judged."""
        return (self._scores(epoch) or {}).get(REWARD_ACCURACY)

    def points(self, points: Sequence[Point]) -> None:
        """Log metrics. Those that the journal has at the same step are dropped; values that are not finite leave a
        gap."""
        for point in points:
            self._log({"kind": "point"}, point.step, point.timestamp_ms, point.metrics)

    def evaluated(self, epoch: int, metrics: Mapping[str, float], correct: Sequence[int], checkpoint: str) -> None:
        """Log the scores of an epoch's checkpoint, with step = epoch. The first result of an epoch is kept.

        `correct` is 1 for each validation pair whose chosen completion scored higher, in dataset order.
        """
        if self._scores(epoch) is not None:
            return
        scored = {
            "kind": "evaluation",
            "epoch": epoch,
            "checkpoint": checkpoint,
            "scores": {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()},
            "correct": [int(bit) for bit in correct],
        }
        self._log(scored, epoch, now_ms(), metrics)
        self._put_evaluation(scored)

    def judged_by(self, suite: str, epoch: int, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Log what another evaluation made of the checkpoint of an epoch, metrics at step = epoch."""
        self._log({"kind": "suite", "suite": suite, "epoch": epoch, "tags": dict(tags)}, epoch, now_ms(), metrics)
        self.tag(tags)

    def artifacts(self, folder: Path, name: str) -> None:
        """Store a folder's files, which must stay until they have been sent."""
        self._put(lambda run_id: self._deliver_artifacts(run_id, folder, name), f"the files of {name}")

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the trial's run."""
        self._put(lambda run_id: self._store.log_tags(run_id, tags), "tags")

    def answer(self, asked: str, tags: Mapping[str, str]) -> None:
        """Set tags in the place of the tag DO with what was asked, also after the end."""
        self._put(lambda run_id: self._store.replace_tag(run_id, DO, asked, tags), "an answer")

    def finish(self, seconds: float | None) -> None:
        """The trial is complete and never run again. None for one that was not trained itself."""
        self._end("finished", "", seconds)

    def diverged(self, reason: str) -> None:
        """Mark the trial as diverged, which is a result; it is never run again."""
        self._end("diverged", reason)

    def stopped(self, reason: str, seconds: float) -> None:
        """Mark the trial as stopped early; it continues if it is run again."""
        self._end("stopped", reason, seconds)

    def fail(self, reason: str) -> None:
        """Mark the trial as failed; it can be run again."""
        self._end("failed", reason)

    def wait(self, timeout_seconds: float) -> None:
        """Return when MLflow has all of it, or when for so long nothing got through."""
        self._delivery.wait(timeout_seconds)

    def end_as_journaled(self, end: Mapping[str, Any]) -> None:
        """Send an end that the journal has and MLflow lacks."""
        self.ended = True
        self._queue(self._deliver_rest, "points", self._drop_points)
        judged = [entry for entry in self._journal.entries if "epoch" in entry] if self._journal is not None else []
        if judged:
            self._put(lambda run_id: self._deliver_models(run_id, judged), "the models")
        self._queue(lambda: self._deliver_end(end), "the end", self.let_go)

    def hand_over(self) -> Journal | None:
        """The journal of an ended trial that is not yet sent, for a retry by the same driver; None for a running
        one."""
        with self._mutex:
            if not self.ended:
                return None
            held, self._journal = self._journal, None
            return held

    def let_go(self) -> None:
        """Release the trial, so that another driver can take it."""
        with self._mutex:
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _scores(self, epoch: int) -> dict[str, float | None] | None:
        """What the checkpoint of an epoch scored; None if it was not judged."""
        entries = self._own_journal().entries
        return next((one["scores"] for one in entries if one["kind"] == "evaluation" and one["epoch"] == epoch), None)

    def _own_journal(self) -> Journal:
        assert self._journal is not None and not self.ended, f"trial {self.digest} has ended"
        return self._journal

    def _log(self, entry: dict[str, Any], step: int, timestamp_ms: int, metrics: Mapping[str, float]) -> None:
        for name in metrics:
            if not _METRIC_NAME.fullmatch(name):
                raise ValueError(
                    f"metric name {name!r}: MLflow takes letters, digits and _ - . : / or a space; "
                    f"for example {harness_task('piqa')}"
                )
        held = self._own_journal()
        fresh = held.fresh(step, metrics)
        if fresh or entry["kind"] != "point":
            entry |= {"step": int(step), "timestamp_ms": int(timestamp_ms), "metrics": fresh}
            held.append(entry, durable=entry["kind"] != "point")
            self._send([entry])

    def _end(self, state: str, reason: str, seconds: float | None = None) -> None:
        end = {"kind": "end", "timestamp_ms": now_ms(), "state": state, "reason": reason, "seconds": seconds}
        self.end_as_journaled(self._own_journal().append(end, durable=True))

    def _put_evaluation(self, entry: Mapping[str, Any]) -> None:
        epoch, path = entry["epoch"], f"validation/epoch-{entry['epoch']:04d}.json"
        content = {"epoch": epoch, "checkpoint": entry["checkpoint"], "metrics": entry["scores"]}
        content["correct"] = entry["correct"]
        self._put(lambda run_id: self._store.log_json(run_id, content, path), f"the evaluation of epoch {epoch}")

    def _send(self, entries: Sequence[Mapping[str, Any]]) -> None:
        with self._mutex:
            self._unsent += _values(entries)
            if self._sending or not self._unsent:
                return
            self._sending = True  # the job already queued takes these points along
        self._queue(self._deliver_points, "points", self._drop_points)

    def _put(self, job: Callable[[str], None], what: str) -> None:
        """Queue what is done to the trial's run. Without a run its opening was refused, which was logged then."""
        self._queue(lambda: job(self.run_id) if self.run_id is not None else None, what)

    def _queue(self, job: Callable[[], None], what: str, if_refused: Callable[[], None] | None = None) -> None:
        self._delivery.put(job, f"{what} of trial {self.digest}", if_refused)

    # The methods below run in the writer's thread.

    def _deliver_opening(self, held: Journal) -> None:
        store, opened = self._store, self._opened
        # By its journal, not by its digest alone: another driver with its own storage may be running the same trial,
        # and without that run's journal we would write points twice.
        identity = {"trial.digest": self.digest, "trial.journal": opened["journal"]}
        parent = {"mlflow.parentRunId": opened["parent"]} if opened["parent"] else {}
        running, config = {"trial.state": "running"}, opened["config"]
        tags = {"ledger.kind": "trial", **parent, **opened["tags"], **running}
        experiment_id = store.experiment_id(opened["experiment"])
        run = store.find_or_create(experiment_id, identity, tags, opened["name"], opened["timestamp_ms"], alone=True)
        run_id = run.info.run_id
        if run.info.status != "RUNNING":
            store.client.update_run(run_id, status="RUNNING")
        if run.data.tags.get("trial.state") != running["trial.state"]:
            store.log_tags(run_id, running)
        if "trial.reason" in run.data.tags:
            store.client.delete_tag(run_id, "trial.reason")
        described = {"trial.json": config, "environment.json": environment()}
        there = store.json_artifacts(run_id, set(described)) if run.data.params else {}  # a new run has none
        for path in described.keys() - there.keys():
            store.log_json(run_id, described[path], path)
        log_datasets(store, run_id, config.get("dataset", ()), config.get("data_fingerprint", ""))
        axes = {name: opened[name] for name in ("log10_learning_rate", "margin") if name in opened}
        store.log_params(run, {**config, **axes})
        last = dict(self._store.last_points_of(run))
        if held.is_damaged or not all(held.had(step, name) for name, step in last.items()):
            self._there = self._store.points_of(run)
        else:
            self._leave_out(last)
        self.run_id = run_id

    def _leave_out(self, last: Mapping[str, int]) -> None:
        """Of metrics whose steps went up, MLflow has all until its last one. It needs a second for a thousand values
        that it has already."""
        with self._mutex:
            steps: dict[str, list[int]] = {}
            for name, _, _, step in self._unsent:
                steps.setdefault(name, []).append(step)
            until = {name: last.get(name, -1) for name, some in steps.items() if some == sorted(some)}
            self._unsent = [one for one in self._unsent if one[3] > until.get(one[0], -1)]

    def _deliver_points(self) -> None:
        """A thousand values; then it is the turn of other trials."""
        self._deliver_batch()
        with self._mutex:
            self._sending = is_more = bool(self._unsent)
        if is_more:
            self._queue(self._deliver_points, "points", self._drop_points)

    def _deliver_rest(self) -> None:
        while self._unsent:
            self._deliver_batch()

    def _deliver_batch(self) -> None:
        with self._mutex:
            batch = self._unsent[:METRICS_PER_BATCH]
        if self.run_id is not None and (new := [one for one in batch if (one[0], one[3]) not in self._there]):
            self._store.log_metrics(self.run_id, new)
        with self._mutex:
            del self._unsent[: len(batch)]

    def _drop_points(self) -> None:
        """Drop the points of a run that a person deleted; the journal keeps them for the trial's next run."""
        with self._mutex:
            self._unsent.clear()
            self._sending = False

    def _deliver_artifacts(self, run_id: str, folder: Path, name: str) -> None:
        if folder.is_dir():
            self._store.client.log_artifacts(run_id, str(folder), name)
            log_pairs(self._store, run_id, folder, name)

    def _deliver_models(self, run_id: str, judged: Sequence[Mapping[str, Any]]) -> None:
        config = {**self._opened["config"], "margin": self._opened.get("margin")}
        params = {name: config[name] for name in _OF_MODELS if config.get(name) is not None}
        paths = {entry["epoch"]: entry["checkpoint"] for entry in judged if entry["kind"] == "evaluation"}
        there = self._there
        scores = [(name, *there.get((name, step), (value, ms)), step) for name, value, ms, step in _values(judged)]
        log_checkpoints(self._store, run_id, Checkpoints(self._opened["name"], paths, params, scores))

    def _deliver_end(self, end: Mapping[str, Any]) -> None:
        if self.run_id is not None:
            # The tag comes last: by it the trial counts as ended, and nothing is sent again.
            status = {"finished": "FINISHED", "stopped": "KILLED"}.get(end["state"], "FAILED")
            self._store.client.set_terminated(self.run_id, status, end["timestamp_ms"])
            self._store.log_tags(self.run_id, ending_tags(end["state"], end["reason"], end["seconds"]))
            with self._mutex:
                if self._journal is not None:
                    here = self._store.address.shown
                    self._journal.append({"kind": "delivered", "ledger": here, "run_id": self.run_id})
        self.let_go()


def _values(entries: Iterable[Mapping[str, Any]]) -> list[tuple[str, float, int, int]]:
    """(name, value, timestamp in ms, step) of the finite metrics."""
    return [
        (name, value, entry["timestamp_ms"], entry["step"])
        for entry in entries
        for name, value in entry["metrics"].items()
        if value is not None
    ]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
