"""When a trial's workers are started again, and when no longer."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.tune
import torch
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from mmpo_train.errors import InputError
from sweeps.trials.restarts import MAX_FAULTS, MAX_LOSSES, Attempts, GaveUp, is_loss, one_line
from sweeps.workers.kept_group import free_left_places
from sweeps.workers.warm import Ask

DEAD = WorkerHealthCheckFailedError("A worker health check failed.", RayActorError())
PREEMPTED = WorkerHealthCheckFailedError("A worker health check failed.", RayActorError(preempted=True))
# As a surviving worker raised it when the other one had been killed.
CLOSED = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:64198.")


def fail(attempts: Attempts, error: Exception, times: int) -> None:
    for _ in range(times):
        attempts.after_exception(None, {0: error})


def report(attempts: Attempts, **metrics: int) -> None:
    attempts.after_report(None, [metrics, {}], None)


def test_the_same_fault_four_times_in_a_row_ends_the_trial_with_its_reason():
    attempts = Attempts()
    report(attempts, safe=120)
    fail(attempts, ValueError("no such column"), MAX_FAULTS - 1)
    with pytest.raises(GaveUp, match=r"^ValueError: no such column \(4 times in a row after step 120\)$"):
        fail(attempts, ValueError("no such column"), 1)


def test_whoever_gets_further_may_fail_again():
    attempts = Attempts()
    for step in range(10):
        report(attempts, safe=step)
        report(attempts, points=1)
        fail(attempts, ValueError("now and then"), MAX_FAULTS - 1)
    report(attempts, safe=3)  # a new attempt that begins before the last one
    with pytest.raises(GaveUp):
        fail(attempts, ValueError("now and then"), 1)


def test_lost_workers_are_replaced_far_more_often_but_not_for_ever():
    attempts = Attempts()
    for error in (DEAD, CLOSED):
        fail(attempts, error, MAX_LOSSES // 2 - 1)
    attempts.after_exception(None, {0: ValueError("what the others raise then is no matter"), 1: DEAD})
    fail(attempts, PREEMPTED, 10 * MAX_LOSSES)  # announced: not counted at all
    with pytest.raises(GaveUp, match="RayActorError"):
        fail(attempts, DEAD, 1)


def test_errors_of_collective_operations_are_losses_and_those_of_the_program_are_not():
    assert is_loss(CLOSED) and is_loss(torch.distributed.DistBackendError("remote process exited")) and is_loss(DEAD)
    of_judge = RayTaskError("make_segment", "its traceback", InputError("no such judge")).as_instanceof_cause()
    faults = (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("gloo"), MemoryError(), of_judge)
    for fault in faults:
        assert not is_loss(fault)


def test_the_reason_is_said_without_the_layers_it_came_through():
    fault = ValueError("first line\n  second line\n")
    assert one_line(WorkerGroupError("workers failed", {1: fault})) == "ValueError: second line"
    assert one_line(ControllerError(GaveUp("OSError: disk full (4 times)"))) == "OSError: disk full (4 times)"
    assert "memory ran out" in one_line(OutOfMemoryError("Task was killed.\nRefer to the documentation: https://docs"))
    said = "1 worker killed.\nRefer to the documentation on how to address the out of memory issue: https://docs"
    assert "memory ran out" in one_line(RuntimeError(said))
    assert one_line(DEAD).startswith("RayActorError: ") and one_line(None) == "NoneType: None"


def always_raises(job: dict[str, Any], ask: Ask) -> None:
    """A task with a fault."""
    count(job)
    ask("report", {"safe": 7})
    raise ValueError("no such column")


def ends(job: dict[str, Any], ask: Ask) -> None:
    """A task that does its work."""
    ask("report", {"safe": 7})


def dies_five_times(job: dict[str, Any], ask: Ask) -> None:
    """A task whose process is killed five times before it comes to its end."""
    if count(job) <= 5:
        os.kill(os.getpid(), signal.SIGKILL)
    ask("report", {"safe": 7})


def count(job: dict[str, Any]) -> int:
    """How many tasks of the job have begun, with this one."""
    with open(job["tally"], "a") as stream:
        stream.write("begun\n")
    return len(Path(job["tally"]).read_text().splitlines())


def drive(space: dict[str, Any]) -> None:
    """A Tune function as `drive_trial` is; of the last trial its process is killed twice, when it has its places."""
    from sweeps.trials.train_job import drive as drive_job

    job = space["job"]
    if job["digest"] == "orphaned" and count(job) <= 2:
        threading.Thread(target=die_with_places, daemon=True).start()
    drive_job(job, {"raises": always_raises, "dies": dies_five_times, "orphaned": ends}[job["digest"]])


def die_with_places() -> None:
    """Kill this process once it has the places of a trial's workers."""
    mine = ray.get_runtime_context().get_actor_id()
    while not any(mine in group["name"] for group in ray.util.placement_group_table().values()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


class FreesPlaces(ray.tune.Callback):
    """Does all the time what a stage does every few seconds."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        free_left_places()


@pytest.mark.slow
def test_real_workers_are_started_again_by_these_rules(tmp_path: Path) -> None:
    """Ray Tune and Ray Train on this machine, which has no room for what lost drivers would leave behind."""
    from sweeps.cluster.connection import cluster
    from sweeps.trials.tune import DRIVER_LOST, ON_HEAD

    resources = {"workers": 1, "min_workers": 1, "use_gpu": False, "cpus_per_worker": 1, "gpus_per_worker": 1.0}
    common = resources | {"accelerator_type": "", "backend": "gloo", "ray_storage": str(tmp_path / "ray")}
    jobs = [common | {"digest": name, "tally": str(tmp_path / name)} for name in ("raises", "dies", "orphaned")]
    with cluster(verbose=False):
        ray.util.placement_group([{"CPU": 0.001}], name="somebody else's")  # no actor is called so
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(drive, ON_HEAD),
            param_space={"job": ray.tune.grid_search(jobs)},
            run_config=ray.tune.RunConfig(
                storage_path=str(tmp_path / "ray"), verbose=0, failure_config=DRIVER_LOST, callbacks=[FreesPlaces()]
            ),
        )
        trials = {trial.config["job"]["digest"]: trial for trial in tuner.fit()._experiment_analysis.trials}
    begun = {name: len((tmp_path / name).read_text().splitlines()) for name in trials}
    assert begun == {"raises": MAX_FAULTS, "dies": 6, "orphaned": 3}
    assert {trial.status for trial in trials.values()} == {"TERMINATED"}
    said = trials["raises"].last_result["failed"]
    assert said == "ValueError: no such column (4 times in a row after step 7)"


@pytest.mark.parametrize("error", [OutOfMemoryError("8 worker(s) were killed"), NodeDiedError("no heartbeat")])
def test_a_driver_that_ray_ends_for_memory_is_a_failed_trial_and_not_the_stages_end(error):
    """Tune's own manager of actors raised RuntimeError, with a traceback of Ray's, and all other trials ended too."""
    import sweeps.trials.tune  # noqa: F401 - mends it

    heard: list[Exception] = []
    manager = RayActorManager(SimpleNamespace(free_resources=lambda acquired_resource: None))
    driver = TrackedActor(1, on_error=lambda actor, error: heard.append(error))
    manager._live_actors_to_ray_actors_resources[driver] = (None, None)
    manager._actor_task_failed(TrackedActorTask(driver), error)
    assert heard == [error]
