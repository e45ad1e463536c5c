"""How often a trial's workers are restarted: a few times after faults of the program, more often after lost
machines."""

from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from mmpo_train.errors import Left
from sweeps.trials.reasons import GaveUp, one_line

MAX_FAULTS = 4
"""Errors of the trial's own code, without progress between them, after which it fails. Running out of memory counts
too, and makes passes smaller each time."""
MAX_LOSSES = 50
"""Losses of workers, without progress between them, after which it fails, for example if the kernel kills them for
their memory."""


class Attempts(UserCallback):
    """Counts the errors and losses of a trial's workers in Train's controller, and raises GaveUp at the limit.

    Ray's own count treats the unannounced death of a node like any other failure, and a trial that runs for days may
    have many. Workers report as `safe` the step from which a new attempt would continue; when it rises, both counts
    start again at 0.
    """

    def __init__(self) -> None:
        self.safe = -1
        self.faults = self.losses = 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by the controller with the reports of all workers."""
        step = metrics[0].get("safe", -1)
        if step > self.safe:
            self.safe, self.faults, self.losses = step, 0, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by the controller, which restarts the workers unless this raises."""
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
    """Frees the places of workers if one of them is lost during their start. Ray 2.60 does not free them, and the next
    workers would wait for them forever."""

    def __init__(self) -> None:
        self.starting: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called when the workers have their places."""
        self.starting = worker_group

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Called when the workers run and Train knows them."""
        self.starting = None

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        """Called after any failure."""
        if self.starting is not None:
            self.starting.shutdown()
            self.starting = None


def is_loss(error: Exception) -> bool:
    """Whether an error means that a worker, or one with which it communicated, was lost."""
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
