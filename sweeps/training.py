"""The trials of a stage on the cluster: Tune runs them, an actor judges their checkpoints, the ledger hears of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from eval_workers.actors import start_reward_accuracy
from mmpo_train.config import TrialConfig, to_dict
from mmpo_train.events import Finished, Point
from mmpo_train.prepare import Places
from sweeps.cluster import TrialResources, ray_storage
from sweeps.trial import drive_trial, failure_reason

if TYPE_CHECKING:
    from sweeps.board import Board
    from sweeps.tracking import TrialLog


# Drivers wait for their workers: they take no CPU from them, and sit on the node that no spot market takes away.
HEAD_NODE = "node:__internal_head__"


def train_trials(
    trials: list[TrialConfig],
    places: Places,
    storage: Path,
    resources: TrialResources,
    logs: dict[str, TrialLog],
    board: Board,
) -> dict[str, float]:
    """Train and judge every trial; returns, when the last checkpoint has been judged, the starting model's metrics.

    A trial that fails or diverges is recorded as such and does not stop the others.
    """
    actor = start_reward_accuracy(str(places.tokens), str(places.reference), 0.1 if resources.use_gpu else 0.0)
    baseline = actor.starting_model.remote(to_dict(trials[0]))
    listener = _Listener(actor, logs, board)
    jobs = [_job(trial, places, storage, resources) for trial in trials]
    tuner = tune.Tuner(
        tune.with_resources(drive_trial, tune.PlacementGroupFactory([{HEAD_NODE: 0.001}])),
        param_space={"job": tune.grid_search(jobs)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=resources.concurrent,
            trial_name_creator=lambda trial: trial.config["job"]["digest"],
            trial_dirname_creator=lambda trial: trial.config["job"]["digest"],
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=ray_storage(storage),
            verbose=0,
            callbacks=[listener],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    with board.live():
        tuner.fit()
        listener.judge_the_rest()
    return ray.get(baseline)


def _job(trial: TrialConfig, places: Places, storage: Path, resources: TrialResources) -> dict[str, Any]:
    return {
        "digest": trial.digest,
        "config": to_dict(trial),
        "places": {name: str(path.resolve()) for name, path in vars(places).items()},
        "ray_storage": ray_storage(storage),
        "workers": resources.workers,
        "use_gpu": resources.use_gpu,
        "cpus_per_worker": resources.cpus_per_worker,
    }


class _Listener(tune.Callback):
    """Hands what Tune hears from the trials to the ledger and the screen, and checkpoints to the evaluator."""

    def __init__(self, actor: Any, logs: dict[str, TrialLog], board: Board) -> None:
        self.actor, self.logs, self.board = actor, logs, board
        self.judging: dict[Any, tuple[str, Finished]] = {}
        self.judged: set[tuple[str, int]] = set()
        self.started: dict[str, float] = {}
        self.trained: set[str] = set()
        self.reasons: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; ours is the ledger.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.started[_digest(trial)] = time.monotonic()
        self.board.set_state(_digest(trial), "starting")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        digest = _digest(trial)
        points = [Point(*point) for point in result.get("points", ())]
        if points:
            self.board.rows[digest].update(points)
            self.board.set_state(digest, "training")
            self.logs[digest].points(points)
        if result.get("finished"):
            finished = Finished(*result["finished"])
            if (digest, finished.epoch) not in self.judged:
                self.judged.add((digest, finished.epoch))
                self.judging[self.actor.evaluate.remote(finished.checkpoint)] = (digest, finished)
                self.board.line(digest, f"epoch {finished.epoch} done")
        if result.get("diverged"):
            self.reasons[digest] = result["diverged"]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        digest = _digest(trial)
        self.trained.add(digest)
        self.board.set_state(digest, "diverged" if digest in self.reasons else "judging")
        self._end_where_judged(digest)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        reason = failure_reason(trial.get_error())
        self.board.rows[_digest(trial)].reason = reason
        self.board.set_state(_digest(trial), "failed")
        self.logs[_digest(trial)].fail(reason)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self._collect(timeout_seconds=0)

    def judge_the_rest(self) -> None:
        """Wait for the evaluations that are still under way."""
        while self.judging:
            self._collect(timeout_seconds=1)

    def _collect(self, timeout_seconds: float) -> None:
        if not self.judging:
            return
        ready, _ = ray.wait(list(self.judging), num_returns=len(self.judging), timeout=timeout_seconds)
        for reference in ready:
            digest, finished = self.judging.pop(reference)
            try:
                scores = ray.get(reference)
            except ray.exceptions.RayError as error:
                self.reasons.setdefault(digest, f"epoch {finished.epoch} could not be judged: {failure_reason(error)}")
                self.board.rows[digest].reason = self.reasons[digest]
            else:
                row = self.board.rows[digest]
                row.reward_accuracy = scores["metrics"]["validation/reward_accuracy"]
                self.logs[digest].evaluated(finished.epoch, scores["metrics"], scores["correct"], finished.checkpoint)
            self._end_where_judged(digest)

    def _end_where_judged(self, digest: str) -> None:
        """Close the trial's record once it is trained and all its checkpoints are judged."""
        if digest not in self.trained or any(waiting == digest for waiting, _ in self.judging.values()):
            return
        self.trained.discard(digest)
        reason = self.reasons.get(digest)
        if reason is None:
            self.logs[digest].finish(time.monotonic() - self.started[digest])
            self.board.set_state(digest, "finished")
        elif "could not be judged" in reason:
            self.logs[digest].fail(reason)
            self.board.set_state(digest, "failed")
        else:
            self.logs[digest].diverged(reason)
            self.board.rows[digest].reason = reason
            self.board.set_state(digest, "diverged")


def _digest(trial: Any) -> str:
    return trial.config["job"]["digest"]
