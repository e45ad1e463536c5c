"""The trials of a stage under Ray Tune, which gives each its place and hears what its workers report."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.air.execution._internal import actor_manager
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

from mmpo_train.terminal import told_by_signal
from mmpo_train.training import Trial, as_plain
from mmpo_train.trial.places import Places
from sweeps.cluster.connection import ray_storage
from sweeps.cluster.leaving import Leaving
from sweeps.cluster.nodes import HEAD_NODE
from sweeps.trials.concurrency import Pace
from sweeps.trials.evaluators import judged_epochs
from sweeps.trials.listener import Listener
from sweeps.trials.reasons import one_line
from sweeps.trials.train_job import drive_trial
from sweeps.trials.work import Work
from sweeps.workers.kept_group import free_left_places

# Drivers wait for their workers: they need no CPU, and run on the head node, which no spot market takes away. Train's
# controller and its barrier run where the driver does.
ON_HEAD = tune.PlacementGroupFactory([{HEAD_NODE: 0.001}])
_SECONDS_BETWEEN_LOOKS = 5.0
DRIVER_LOST = tune.FailureConfig(max_failures=3)
"""A driver that is killed, by the kernel for instance, is started again; the trial goes on from its last state."""
# Tune 2.60 knows RayActorError alone, and ends with a traceback where Ray ends a driver since memory runs out.
actor_manager.RayActorError = RayActorError, OutOfMemoryError, NodeDiedError  # type: ignore[misc,assignment]


def tune_trials(work: Work, listener: Listener, at_a_time: Callable[[], int]) -> None:
    """Train every trial to its end, however that is. So many run `at_a_time`, which is asked again as nodes come and
    go."""
    with told_by_signal() as told:
        leaving = Leaving(told, lambda: [places.trial(trial) for trial, places in listener.trials.values()])
        try:
            _tuner(work, listener, leaving, at_a_time).fit()
            leaving.check(())
        finally:
            leaving.take_back()


def _tuner(work: Work, listener: Listener, leaving: Leaving, at_a_time: Callable[[], int]) -> tune.Tuner:
    watched = listener.goes_on is not None

    def job_of(digest: str) -> dict[str, Any]:
        return _job(work, *listener.trials[digest], watched)

    pace = Pace(at_a_time, listener.board, listener.added, job_of)
    return tune.Tuner(
        tune.with_resources(drive_trial, ON_HEAD),
        param_space={"job": tune.grid_search([job_of(digest) for digest in work.trials])},
        tune_config=tune.TuneConfig(
            search_alg=pace.trials,
            reuse_actors=True,  # a driver's process takes longer to start than all else between two trials
            trial_name_creator=_digest,
            trial_dirname_creator=_digest,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=ray_storage(work.options.folder),
            verbose=0,
            callbacks=[Hearing(listener, leaving), pace],
            failure_config=DRIVER_LOST,
        ),
    )


def _job(work: Work, trial: Trial, places: Places, watched: bool) -> dict[str, Any]:
    return {
        "digest": trial.digest,
        "ray_storage": ray_storage(work.options.folder),
        "watched": watched,
        "judged": judged_epochs(trial, places),
        **as_plain(trial, places),
        **work.resources.job(),
    }


class Hearing(tune.Callback):
    """Tells the listener what Tune hears from the trials."""

    def __init__(self, listener: Listener, leaving: Leaving) -> None:
        self.listener, self.leaving = listener, leaving
        self.next_look = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; ours is the ledger.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if _digest(trial) not in self.listener.under_way():  # else its driver was lost
            self.listener.begun(_digest(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.listener.heard(_digest(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.listener.trained(_digest(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if _digest(trial) not in self.listener.logs:  # its driver could not be started
            self.listener.begun(_digest(trial))
        self.listener.trained(_digest(trial), one_line(error_of(trial)))

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self.listener.judged()
        if time.monotonic() > self.next_look:
            free_left_places()
            self.next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        self.leaving.check(self.listener.at_steps())


def error_of(trial: Any) -> BaseException | None:
    """The exception of a failed trial. Tune's own `get_error` looks where the file is copied only later."""
    path = trial.pickled_error_file
    if path and Path(path).is_file():
        return pickle.loads(Path(path).read_bytes())  # Tune wrote it in this very process
    text = Path(trial.error_file)
    return RuntimeError(text.read_text() if text.is_file() else "the trial's process ended without a word")


def _digest(trial: Any) -> str:
    return trial.config["job"]["digest"]
