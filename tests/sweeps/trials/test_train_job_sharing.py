"""Several trials on one GPU, with Ray's own count of GPUs: real Ray Train, on CPUs."""

import time
from pathlib import Path
from typing import Any

import pytest
import ray

from sweeps.cluster.nodes import NodeKind, Nodes
from sweeps.cluster.placement import place
from sweeps.plan.options import SweepOptions
from sweeps.workers.training import begun
from sweeps.workers.warm import Ask


def meet(job: dict[str, Any], ask: Ask) -> None:
    """A task that ends when as many are there at the same time as a GPU has places, and fails without them."""
    with begun(job, ask):
        there = Path(job["meeting"])
        (there / job["digest"]).touch()
        end = time.monotonic() + 120
        while len(list(there.iterdir())) < job["expected"]:
            assert time.monotonic() < end, "the other trial was not started"
            time.sleep(0.1)


def drive(space: dict[str, Any]) -> None:
    """A Tune function as `drive_trial` is."""
    from sweeps.trials.train_job import run_job

    run_job(space["job"], meet)


@pytest.mark.slow
def test_trials_with_half_a_gpu_run_on_it_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.cluster import connection
    from sweeps.trials.tune import ON_HEAD

    monkeypatch.setenv("MMPO_LOGICAL_GPUS", "1")
    monkeypatch.setattr(connection, "local_resources", lambda: (4.0, 1.0))
    resources = place(SweepOptions(gpus_per_worker=0.5), Nodes((NodeKind(4, 1),), local=True))
    assert resources.concurrent == 2
    (tmp_path / "meeting").mkdir()
    common = resources.job() | {"ray_storage": str(tmp_path / "ray"), "meeting": str(tmp_path / "meeting")}
    jobs = [common | {"digest": name, "expected": 2} for name in ("one", "other")]
    with connection.cluster(verbose=False):
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(drive, ON_HEAD),
            param_space={"job": ray.tune.grid_search(jobs)},
            run_config=ray.tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0),
        )
        trials = tuner.fit()._experiment_analysis.trials
    assert [trial.status for trial in trials] == ["TERMINATED"] * 2
