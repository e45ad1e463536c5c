"""Ray Train's controller and its group of workers, kept by a trial's driver for the trial that it runs next.

Ray 2.60 starts three processes for a trial, which import Ray anew: a worker, a barrier and a cleaner of placement
groups. A trial with one worker has no barrier here, and none has a cleaner: the stage frees the places of drivers that
have died. The others know nothing of a trial that has ended, since it trained in a fork (`warm.py`).
"""

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import ray
from ray import PlacementGroupID
from ray.exceptions import RayError
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupState, state, worker_group
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from sweeps.workers.ray_worker import Alone

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


class Group(WorkerGroup):
    """Ray's group, whose places name the driver that they belong to."""

    def _create_placement_group(self, scaling_config: Any, wanted: Any) -> Any:
        driver = ray.get_runtime_context()
        name = f"{driver.get_job_id()} {driver.get_actor_id()} {uuid.uuid4().hex}"
        places = [wanted.resources_per_worker] * wanted.num_workers
        about = {"strategy": wanted.placement_strategy, "bundle_label_selector": wanted.label_selector}
        return DefaultPlacementGroupHandle(placement_group(places, name=name, **about))


def free_left_places() -> None:
    """Free the places of this command's drivers that have died. Ray would free them at the end of the job.

    The cluster's table lists the groups of others too, under whatever names they gave them.
    """
    mine = ray.get_runtime_context().get_job_id()
    for identity, group in placement_group_table().items():
        job, *driver = group["name"].split(" ")
        ours = job == mine and group["state"] != "REMOVED"
        if ours and ray._private.state.actors(driver[0]).get("State") == "DEAD":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(identity))))


class KeptGroup(Group):
    """A group that takes the workers that are kept, if they are as many on equal places, and still there."""

    taken: Any = None

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        if kept := _take():
            if kept.shape == self._shape() and _are_there(kept.state.workers):
                self.taken = kept.state
            else:
                kept.state.shutdown()
        try:
            with _barrier(self.taken, self._worker_group_context.num_workers):
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
    except RayError:
        return False
    return True


def _somebody_waits() -> bool:
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in placement_group_table().values())


@contextmanager
def _barrier(kept: Any, workers: int) -> Iterator[None]:
    """A block in which Ray's group has the barrier of a kept one, or none for a worker alone, instead of a new one."""
    module: Any = worker_group
    if kept is not None or workers == 1:
        one = SimpleNamespace(remote=lambda **_: kept.sync_actor if kept else Alone())
        module.SynchronizationActor = SimpleNamespace(options=lambda **_: one)
    try:
        yield
    finally:
        module.SynchronizationActor = SynchronizationActor


def _end_barrier(barrier: Any) -> None:
    if not isinstance(barrier, Alone):
        ray.kill(barrier)


state._shutdown_sync_actor = _end_barrier  # type: ignore[assignment]


class Places(FixedScalingPolicy):
    """As many workers as the trial wants. Ray asks an actor of its own for them as well, for which nobody waits."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called before anything else."""

    def _maybe_send_resource_request(self) -> None:
        pass


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
