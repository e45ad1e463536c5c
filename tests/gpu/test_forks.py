"""Forks of a warm process on a GPU: in each of them CUDA and NCCL begin as in a new process."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.workers import warm
from sweeps.workers.training import begun
from sweeps.workers.warm import Ask

pytestmark = pytest.mark.gpu


def holds(job: dict[str, Any], ask: Ask) -> None:
    """Hold some MiB on the device, and tell what this process knows of it, before and after."""
    before = torch.cuda.is_initialized()
    from mmpo_train.devices import own_device

    with begun(job, ask):
        values = torch.ones(job["mib"] * 2**18, device=own_device())
        torch.distributed.all_reduce(values)
        peak = torch.cuda.max_memory_allocated() if values.is_cuda else values.nbytes
        ask("say", {"warm process": os.getppid(), "began before": before, "mean": float(values.mean()), "peak": peak})


@pytest.fixture
def held() -> Iterator[Any]:
    """A function of the job, which a fork does; it returns what the fork said."""
    said: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as short, pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)

        def run(**fields: Any) -> dict[str, Any]:
            job = {"cpus_per_worker": 1, "gpu_share": 1.0, "mib": 64} | fields
            job["backend"] = "nccl" if torch.cuda.is_available() else "gloo"
            answers = {"report": lambda report: None, "say": said.append}
            assert warm.run(holds, job, answers, Path(short) / "warm"), "it was a fork"
            return said[-1]

        try:
            yield run
        finally:
            for process in {one["warm process"] for one in said}:
                os.kill(process, signal.SIGKILL)


def test_forks_of_a_warm_process_share_nothing_of_the_device(held: Any) -> None:
    large, small = held(mib=64), held(mib=8)
    assert large["warm process"] == small["warm process"] != os.getpid()
    for one in (large, small):
        assert not one["began before"] and one["mean"] == 1.0
    assert large["peak"] >= 64 * 2**20 > small["peak"] >= 8 * 2**20
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        with pytest.raises(torch.OutOfMemoryError):
            held(gpu_share=0.05, mib=total // 2**20 // 10)
