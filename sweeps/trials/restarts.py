"""How often a trial's workers are started again: lost machines don't count, a fault of the program does."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from mmpo_train.trial.loop import Left
from sweeps.trials.reasons import GaveUp, one_line

MAX_FAULTS = 4
"""The trial fails when its own code has raised so often without getting further: also out of memory, which makes
passes smaller each time."""
MAX_LOSSES = 50
"""And when its workers were lost so often without getting further, as where the kernel kills them for their memory."""


class Attempts(UserCallback):
    """Counts what ends a trial's workers, in Train's controller; at the limit it raises GaveUp, which ends the trial.

    Ray counts by itself, but takes the death of a node that was not announced for a failure like any other, and a
    trial that runs for days may see many. Workers report as `safe` the step that a new attempt would go on from: both
    counts begin anew when it has risen.
    """

    def __init__(self) -> None:
        self.safe = -1
        self.faults = self.losses = 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by the controller for what all workers have reported."""
        step = metrics[0].get("safe", -1)
        if step > self.safe:
            self.safe, self.faults, self.losses = step, 0, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by the controller, which starts the workers again where nothing is raised."""
        errors = list(worker_exceptions.values())
        if any(is_preempted(error) for error in errors):
            return
        if any(is_loss(error) for error in errors):
            self.losses += 1
        else:
            self.faults += 1
        if self.faults >= MAX_FAULTS or self.losses >= MAX_LOSSES:
            tries = f"{self.faults + self.losses} times in a row after step {max(self.safe, 0)}"
            raise GaveUp(f"{one_line(errors[0])} ({tries})")


class Leftovers(WorkerGroupCallback, ControllerCallback):
    """Gives back the places of workers of which one was lost while they were being started: Ray 2.60 forgets them, and
    whoever is started instead would wait for them for ever."""

    def __init__(self) -> None:
        self.starting: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called when they have their places."""
        self.starting = worker_group

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Called when they are at work, and Train knows of them."""
        self.starting = None

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        """Called for any failure."""
        if self.starting is not None:
            self.starting.shutdown()
            self.starting = None


def is_loss(error: Exception) -> bool:
    """Whether an error says that a worker, or one that this one talked to, is no longer there."""
    if isinstance(error, (RayError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)):
        return not isinstance(error, RayTaskError)  # what another process has raised and survived
    # What collective operations of the others raise: NCCL's errors have a type, gloo's have a text.
    of_torch = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    return of_torch or (isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL")))


def is_preempted(error: Exception) -> bool:
    """Whether the worker's node is taken away with notice: after it, or at it when a state was written."""
    if isinstance(getattr(error, "_base_exc", error), Left):
        return True
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))
