"""Ray Train's controller and its group of workers, kept by a trial's driver for the trial that it runs next.

Ray 2.60 starts three processes for a trial, which import Ray anew: a worker, a barrier and a cleaner of placement
groups. They know nothing of a trial that has ended, since it trained in a fork (`warm.py`).
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupState, worker_group
from ray.util import placement_group_table

_KEPT_SECONDS = 10.0
_SECONDS_TO_ANSWER = 5.0
_SECONDS_OF_OFTEN = 0.1
_SECONDS_TO_BEGIN = 5.0
_SECONDS_AFTER_REPORT = 1.0


class _Kept(NamedTuple):
    shape: tuple[Any, ...]
    state: Any
    """Ray's: placement group, barrier and workers."""
    release: threading.Timer


_kept: _Kept | None = None
_lock = threading.Lock()


def _take() -> _Kept | None:
    """What is kept, which is nobody else's from now on."""
    global _kept
    with _lock:
        kept, _kept = _kept, None
    if kept:
        kept.release.cancel()
    return kept


def release() -> None:
    """Give the places of what is kept back."""
    if kept := _take():
        kept.state.shutdown()


class KeptGroup(WorkerGroup):
    """A group that takes the workers that are kept, if they are as many on equal places, and still there."""

    taken: Any = None

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        if kept := _take():
            if kept.shape == self._shape() and _are_there(kept.state.workers):
                self.taken = kept.state
            else:
                kept.state.shutdown()
        try:
            with _barrier(self.taken):
                super()._start_impl(worker_group_state_builder)
        finally:
            self.taken = None

    def _create_placement_group(self, *arguments: Any) -> Any:
        return self.taken.placement_group_handle if self.taken else super()._create_placement_group(*arguments)

    def _create_workers(self, *arguments: Any, **more: Any) -> Any:
        return self.taken.workers if self.taken else super()._create_workers(*arguments, **more)

    def shutdown(self) -> None:
        """Keep the workers if all have finished in forks, and nobody waits for their places."""
        global _kept
        status = self._latest_poll_status
        if status is not None and _all_finished_in_forks(status) and not _somebody_waits():
            timer = threading.Timer(_KEPT_SECONDS, release)
            timer.daemon = True
            with _lock:
                _kept = _Kept(self._shape(), self._worker_group_state, timer)
            timer.start()
            self._worker_group_state = _Stays(**vars(self._worker_group_state))
        super().shutdown()

    def _shape(self) -> tuple[Any, ...]:
        wanted = self._worker_group_context
        return wanted.num_workers, wanted.resources_per_worker, wanted.placement_strategy, wanted.label_selector


def _all_finished_in_forks(status: Any) -> bool:
    undisturbed = status.finished and not status.errors and status.get_preemption_info() is None
    return undisturbed and all(one.return_value for one in status.worker_statuses.values())


class _Stays(WorkerGroupState):
    """The state of a group that is shut down while its workers stay."""

    def shutdown(self) -> None:
        for worker in self.workers:
            worker.actor.shutdown.remote()  # its callbacks end; nothing else does


def _are_there(workers: Sequence[Any]) -> bool:
    try:
        ray.get([worker.actor.get_metadata.remote() for worker in workers], timeout=_SECONDS_TO_ANSWER)
    except (RayActorError, GetTimeoutError):
        return False
    return True


def _somebody_waits() -> bool:
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in placement_group_table().values())


@contextmanager
def _barrier(state: Any) -> Iterator[None]:
    """A block in which Ray's group has the barrier of a kept one, where there is one, instead of a new one."""
    module: Any = worker_group
    if state is not None:
        one = SimpleNamespace(remote=lambda **_: state.sync_actor)
        module.SynchronizationActor = SimpleNamespace(options=lambda **_: one)
    try:
        yield
    finally:
        module.SynchronizationActor = SynchronizationActor


class Cleaner(PlacementGroupCleanerCallback):
    """Ray's cleaner of placement groups, which outlives a driver that is killed: one for all trials of a driver."""

    of_driver: Any = None

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called before anything else."""
        if Cleaner.of_driver is None:
            super().after_controller_start(train_run_context)
            Cleaner.of_driver = self._cleaner, self._controller_actor_id
        self._cleaner, self._controller_actor_id = Cleaner.of_driver

    async def before_controller_shutdown(self) -> None:
        """Called at the end of a trial; the cleaner goes with the driver."""


class Controller(TrainController):
    """Train's controller, with workers that may have been another trial's."""

    worker_group_cls: type[WorkerGroup] = KeptGroup

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.usual_seconds = self._health_check_interval_s
        self.often_until = time.monotonic() + _SECONDS_TO_BEGIN

    async def _poll_workers(self) -> Any:
        # A worker waits with its next report until the last one is fetched, and reports several times as it begins, and
        # at the end of an epoch.
        often = time.monotonic() < self.often_until
        self._health_check_interval_s = _SECONDS_OF_OFTEN if often else self.usual_seconds
        status = await super()._poll_workers()
        if any(one.training_report is not None for one in status.worker_statuses.values()):
            self.often_until = max(self.often_until, time.monotonic() + _SECONDS_AFTER_REPORT)
        return status
