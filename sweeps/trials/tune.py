"""The trials of a stage on the cluster: Tune runs them, an actor judges their checkpoints, the ledger hears of it."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from mmpo_train.config import TrialConfig, to_dict
from mmpo_train.data.rendering import facts
from mmpo_train.events import Finished, Point
from mmpo_train.metric_names import ACCURACY_CURVE, EPOCH, REWARD_ACCURACY
from mmpo_train.storage.mirror import fetch_files, name_of
from mmpo_train.trial.early_stop import GO_ON, STOP, write_answer
from mmpo_train.trial.places import Places
from sweeps.cluster.connection import ray_storage
from sweeps.cluster.nodes import HEAD_NODE
from sweeps.cluster.placement import TrialResources
from sweeps.trials.concurrency import Pace
from sweeps.trials.evaluators import REWARD, Evaluators, artifacts_folder
from sweeps.trials.restarts import one_line
from sweeps.trials.train_job import drive_trial
from sweeps.trials.work_clock import WorkClock

if TYPE_CHECKING:
    from sweeps.ledger.trial_log import TrialLog
    from sweeps.trials.board import Board


# Drivers wait for their workers: they take no CPU from them, and sit on the node that no spot market takes away.
# Train's controller and its barrier sit where the driver does.
ON_HEAD = tune.PlacementGroupFactory([{HEAD_NODE: 0.001}])

GoesOn = Callable[[str, int, float], bool]
"""Takes a trial's digest, an epoch that it has finished and its reward accuracy: whether it may go on."""


def train_trials(
    trials: Sequence[tuple[TrialConfig, Places]],
    evaluators: Evaluators,
    storage: Path,
    resources: TrialResources,
    open_log: Callable[[TrialConfig], TrialLog],
    board: Board,
    at_a_time: Callable[[], int],
    goes_on: GoesOn | None = None,
) -> dict[str, dict[str, float]]:
    """Train and judge every trial; returns, when the last checkpoint has been judged, what the starting model scores by
    each trial's objective: digest -> metrics.

    A trial that fails or diverges is recorded as such and does not stop the others. So many run `at_a_time`, which is
    asked again as nodes come and go. Where there is `goes_on`, trials ask it at each epoch's end but the last.
    """
    baselines = {trial.digest: evaluators.starting_model(trial, places) for trial, places in trials}
    by_digest = {trial.digest: (trial, places) for trial, places in trials}
    listener, pace = _Listener(evaluators, by_digest, open_log, board, resources, goes_on), Pace(at_a_time, board)
    jobs = [_job(trial, places, storage, resources) | {"watched": goes_on is not None} for trial, places in trials]
    tuner = tune.Tuner(
        tune.with_resources(drive_trial, ON_HEAD),
        param_space={"job": tune.grid_search(jobs)},
        tune_config=tune.TuneConfig(
            search_alg=pace.trials,
            reuse_actors=True,  # a driver's process takes longer to start than all else between two trials
            trial_name_creator=lambda trial: trial.config["job"]["digest"],
            trial_dirname_creator=lambda trial: trial.config["job"]["digest"],
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=ray_storage(storage),
            verbose=0,
            callbacks=[listener, pace],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        with board.live():
            tuner.fit()
            listener.judge_the_rest()
    finally:
        for log in listener.logs.values():
            if not log.ended:
                log.fail("interrupted: the same command goes on from the last state written")
    return {digest: ray.get(baseline) for digest, baseline in baselines.items()}


def _job(trial: TrialConfig, places: Places, storage: Path, resources: TrialResources) -> dict[str, Any]:
    return {
        "digest": trial.digest,
        "config": to_dict(trial),
        "places": {name: name_of(path) for name, path in vars(places).items()},
        "ray_storage": ray_storage(storage),
        **resources.job(),
    }


class _Listener(tune.Callback):
    """Hands what Tune hears from the trials to the ledger and the screen, and checkpoints to the evaluator."""

    def __init__(
        self,
        evaluators: Evaluators,
        trials: dict[str, tuple[TrialConfig, Places]],
        open_log: Callable[[TrialConfig], TrialLog],
        board: Board,
        resources: TrialResources,
        goes_on: GoesOn | None = None,
    ) -> None:
        self.resources, self.goes_on = resources, goes_on
        self.accuracies: dict[tuple[str, float], float] = {}
        """Digest and epoch -> the training loop's reward accuracy at the epoch's end."""
        self.evaluators, self.trials, self.open_log, self.board = evaluators, trials, open_log, board
        self.logs: dict[str, TrialLog] = {}
        self.clocks: dict[str, WorkClock] = {}
        self.judging: dict[Any, tuple[str, Finished, str]] = {}
        """Reference -> digest, checkpoint and suite of an evaluation under way."""
        self.sent_to_judge: set[tuple[str, int]] = set()
        self.troubles: dict[str, tuple[str, str]] = {}
        """Digest -> state and reason of a trial that did not come to a good end."""
        self.trained: set[str] = set()
        """Trials whose training has ended, one way or another, and whose record is still open."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; ours is the ledger.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._open(_digest(trial))
        self.board.set_state(_digest(trial), "placing")

    def _open(self, digest: str) -> None:
        self.clocks[digest] = WorkClock(self.resources.workers)
        trial, places = self.trials[digest]
        self.logs[digest] = self.open_log(trial)
        self.logs[digest].tag({f"rendering.{name}": value for name, value in facts(places.model).items()})

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        digest = _digest(trial)
        self.clocks[digest].hear(result)
        if result.get("workers"):
            self.board.set_state(digest, "starting")
        points = [Point(*point) for point in result.get("points", ())]
        if points:
            self.board.rows[digest].update(points)
            self.board.set_state(digest, "training")
            self.logs[digest].points(points)
            for point in points:
                if ACCURACY_CURVE in point.metrics:
                    self.accuracies[digest, point.metrics[EPOCH]] = point.metrics[ACCURACY_CURVE]
        if result.get("finished"):
            finished = Finished(*result["finished"])
            self._answer(digest, finished.epoch)
            if (digest, finished.epoch) not in self.sent_to_judge:
                self.sent_to_judge.add((digest, finished.epoch))
                for reference, suite in self.evaluators.submit(*self.trials[digest], finished).items():
                    self.judging[reference] = (digest, finished, suite)
                self.board.line(digest, f"epoch {finished.epoch} done")
        if result.get("said"):
            self.board.say(digest, result["said"])
        for state in ("diverged", "stopped"):
            if result.get(state):
                self.troubles[digest] = (state, result[state])

    def _answer(self, digest: str, epoch: int) -> None:
        trial, places = self.trials[digest]
        if self.goes_on is not None and epoch < trial.epochs:
            leave = self.goes_on(digest, epoch, self.accuracies[digest, epoch])
            write_answer(places.trial(trial), epoch, GO_ON if leave else STOP)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.board.set_state(_digest(trial), "judging")
        self.trained.add(_digest(trial))
        self._end_where_judged(_digest(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if _digest(trial) not in self.logs:  # its driver could not be started
            self._open(_digest(trial))
        self.troubles[_digest(trial)] = ("failed", one_line(error_of(trial)))
        self.trained.add(_digest(trial))
        self._end_where_judged(_digest(trial))

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
            digest, finished, suite = self.judging.pop(reference)
            try:
                scores = ray.get(reference)
            except ray.exceptions.RayError as error:
                self._could_not_judge(digest, finished, suite, one_line(error))
            else:
                self._judged(digest, finished, suite, scores)
            self._end_where_judged(digest)

    def _judged(self, digest: str, finished: Finished, suite: str, scores: dict[str, Any]) -> None:
        log, metrics = self.logs[digest], scores["metrics"]
        if suite == REWARD:
            self.board.rows[digest].reward_accuracy = metrics[REWARD_ACCURACY]
            log.evaluated(finished.epoch, metrics, scores["correct"], finished.checkpoint)
            return
        log.points([Point(finished.epoch, time.time_ns() // 1_000_000, metrics)])
        log.tag({f"evaluation.{suite}.{name}": value for name, value in scores.get("facts", {}).items()})
        trial, places = self.trials[digest]
        for name, why in scores.get("missing", {}).items():
            self._could_not_judge(digest, finished, f"{suite}.{name}", why)
        folder = artifacts_folder(places, trial, finished.epoch) / suite
        fetch_files(folder)
        log.artifacts(folder, f"evaluations/epoch-{finished.epoch:04d}/{suite}")
        self.board.line(digest, f"epoch {finished.epoch}: {suite} done")

    def _could_not_judge(self, digest: str, finished: Finished, suite: str, reason: str) -> None:
        """Without reward accuracy a trial cannot be ranked; anything else that is missing is missing, no more."""
        if suite == REWARD:
            self.troubles.setdefault(digest, ("failed", f"epoch {finished.epoch} could not be judged: {reason}"))
            return
        self.logs[digest].tag({f"evaluation.{suite}.epoch-{finished.epoch:04d}": reason})
        self.board.say(digest, f"epoch {finished.epoch} without {suite}: {reason}")

    def _end_where_judged(self, digest: str) -> None:
        """Close the trial's record once its training has ended and all its checkpoints are judged."""
        if digest not in self.trained or any(waiting == digest for waiting, _, _ in self.judging.values()):
            return
        self.trained.discard(digest)
        state, reason = self.troubles.get(digest, ("finished", ""))
        log = self.logs[digest]
        if state == "finished":
            log.finish(self.clocks[digest].seconds())
        elif state == "diverged":
            log.diverged(reason)
        elif state == "stopped":
            log.stopped(reason, self.clocks[digest].seconds())
        else:
            log.fail(reason)
        self.board.set_state(digest, state, reason)


def error_of(trial: Any) -> BaseException | None:
    """What a failed trial raised. Tune's own `get_error` looks where the file is copied to later."""
    path = trial.pickled_error_file
    if path and Path(path).is_file():
        return pickle.loads(Path(path).read_bytes())  # Tune wrote it in this very process
    text = Path(trial.error_file)
    return RuntimeError(text.read_text() if text.is_file() else "the trial's process ended without a word")


def _digest(trial: Any) -> str:
    return trial.config["job"]["digest"]
