"""Workers that a driver keeps for its next trial: real Ray Train, whose processes are known by their ids."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.util import placement_group, remove_placement_group

from sweeps.cluster import connection
from sweeps.cluster.placement import TrialResources
from sweeps.workers import kept_group, warm
from sweeps.workers.training import begun
from sweeps.workers.warm import Ask, Task

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm processes are Linux's")]


class Driver:
    """A trial's driver without Tune: it runs jobs, and returns what their workers have reported."""

    def run(self, job: dict[str, Any], task: Task) -> dict[str, Any]:
        from sweeps.trials import train_job

        heard: dict[str, Any] = {}
        train_job.tune = SimpleNamespace(report=heard.update)
        train_job.run_job(job, task)
        return heard | {"kept": kept_group._kept is not None}

    def keep_for(self, seconds: float) -> None:
        kept_group._KEPT_SECONDS = seconds


def looks_around(job: dict[str, Any], ask: Ask) -> None:
    """Reports in what state it finds its process, and leaves another one."""
    import torch
    import torch.distributed as dist

    found = {"process": os.getpid(), "left": os.environ.get("LEFT"), "rank": os.environ["RANK"]}
    found |= {"drawn": torch.rand(1).item(), "group": dist.is_initialized(), "cwd": os.getcwd()}
    os.environ["LEFT"] = "by another trial"
    os.chdir("/")
    with begun(job, ask):
        ask("report", found)


def waits(job: dict[str, Any], ask: Ask) -> None:
    with begun(job, ask):
        until(Path(job["ray_storage"], "go on").exists)


def until(happened: Callable[[], Any], seconds: float = 120) -> float:
    """Seconds until it has."""
    started = time.monotonic()
    while not happened():
        assert time.monotonic() - started < seconds
        time.sleep(0.1)
    return time.monotonic() - started


def workers() -> set[int]:
    found = set()
    for one in psutil.Process().children(recursive=True):
        try:
            if "".join(one.cmdline()[:1]).startswith("ray::RayTrainWorker"):
                found.add(one.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A driver on two CPUs, whose warm process has begun to import."""
    patched = pytest.MonkeyPatch()
    patched.setattr(connection, "local_resources", lambda: (2.0, 0.0))
    with connection.cluster(verbose=False):
        yield ray.remote(num_cpus=0)(Driver).remote()
    patched.undo()


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return TrialResources(1, False, 1, 2).job() | {"digest": "one", "ray_storage": str(tmp_path)}


def run(driver: Any, job: dict[str, Any], task: Task = looks_around) -> dict[str, Any]:
    return ray.get(driver.run.remote(job, task), timeout=300)


def test_a_driver_s_next_trial_has_the_same_workers_and_finds_nothing_of_the_last(
    driver: Any, job: dict[str, Any]
) -> None:
    ray.get(driver.keep_for.remote(60.0))
    first = run(driver, job)
    [kept] = workers()
    second = run(driver, job | {"digest": "two"})
    assert workers() == {kept} and first["kept"] and second["kept"]
    assert first.pop("process") != second.pop("process"), "each trains in a fork of its own"
    assert [Path(found.pop("cwd")).name for found in (first, second)] == ["one", "two"]
    assert first == second and (first["left"], first["group"], first["rank"]) == (None, False, "0")


def test_workers_for_which_there_is_no_next_trial_are_given_back(driver: Any, job: dict[str, Any]) -> None:
    assert kept_group._KEPT_SECONDS == 10.0
    ray.get(driver.keep_for.remote(2.0))
    assert run(driver, job)["kept"] and workers()
    assert until(lambda: not workers(), 60) > 1.0


def test_workers_are_given_back_at_once_where_another_trial_waits_for_their_place(
    driver: Any, job: dict[str, Any]
) -> None:
    ray.get(driver.keep_for.remote(600.0))
    running = driver.run.remote(job, waits)
    until(workers)
    waiting = placement_group([{"CPU": 2}])
    assert not waiting.wait(1)
    Path(job["ray_storage"], "go on").touch()
    assert not ray.get(running, timeout=120)["kept"] and waiting.wait(60)
    remove_placement_group(waiting)


def test_an_elastic_trial_keeps_no_workers(driver: Any, job: dict[str, Any]) -> None:
    """It counts the places that are free, of which kept ones are none."""
    ray.get(driver.keep_for.remote(600.0))
    assert not run(driver, job | {"workers": 2, "min_workers": 1})["kept"]
    until(lambda: not workers(), 60)


def test_workers_that_train_by_themselves_are_not_kept(
    driver: Any, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a trial in their own process could be fresh for the next."""
    assert not warm.run(says_nothing, {}, {}, None)
    monkeypatch.setattr(kept_group, "_somebody_waits", lambda: False)
    status = SimpleNamespace(return_value=False)
    whole = {"finished": True, "errors": {}, "get_preemption_info": lambda: None}
    assert not kept_group._all_finished_in_forks(SimpleNamespace(**whole, worker_statuses={0: status}))


def says_nothing(job: dict[str, Any], ask: Ask) -> None:
    pass
