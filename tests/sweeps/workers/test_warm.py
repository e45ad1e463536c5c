"""Warm processes: what a trial is in a fork of one, and what becomes of a fork, its worker and the warm process when
one of them dies. Real DeepSpeed, without Ray."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmpo_train.config import TrialConfig, replace
from mmpo_train.training import as_plain
from sweeps.workers import warm
from sweeps.workers.training import train
from sweeps.workers.warm import Ask
from tests.support.workers import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="warm processes are Linux's")]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The folder of a warm process, which has a short path as Ray's sessions have."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        yield Path(short) / "warm"
        if children := forks_of(Path(short) / "warm"):
            raise AssertionError(f"left behind: {children}")
        kill(serving(Path(short) / "warm"))


def serving(folder: Path) -> int:
    """The id of the warm process at a folder; 0 if there is none."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if os.fsencode(folder) in words and os.fsencode(folder) not in command_of(parent):
            return int(place.name)
    return 0


def command_of(process: int) -> list[bytes]:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def forks_of(folder: Path) -> list[int]:
    found = Path(f"/proc/{serving(folder)}/task/{serving(folder)}/children")
    return [int(word) for word in found.read_text().split()] if found.exists() else []


def kill(process: int) -> None:
    if process:
        os.kill(process, signal.SIGKILL)
        until(lambda: not command_of(process))


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def worker(folder: Path, task: str) -> subprocess.Popen[str]:
    """A worker, in a process of its own, with a task of this file."""
    code = f"from tests.sweeps.workers.test_warm import *; print(warm.run({task}, {{}}, {{}}, Path({str(folder)!r})))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def fails(job: dict[str, Any], ask: Ask) -> None:
    raise ValueError(f"{job['why']}, {ask('twice', 21)}")


def says_its_parent(job: dict[str, Any], ask: Ask) -> None:
    ask("say", os.getppid())


def is_killed(job: dict[str, Any], ask: Ask) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(job: dict[str, Any], ask: Ask) -> None:
    time.sleep(600)


def runs_out_of_memory(job: dict[str, Any], ask: Ask) -> None:
    """A trial for whose passes there is never enough memory: the allocator's own error."""
    import torch

    from mmpo_train.engines import deepspeed_engine

    made = deepspeed_engine.zero_engine

    def make(*arguments: Any) -> Any:
        engine = made(*arguments)
        engine.logps = lambda *_: torch.ones(2**50)
        return engine

    deepspeed_engine.zero_engine = make
    train(job, ask)


def job_of(prepared: Any, storage: Path, **fields: Any) -> tuple[TrialConfig, dict[str, Any]]:
    trial = replace(prepared.config, {"zero_stage": 2, "learning_rate": 1e-3, **fields})
    job = as_plain(trial, dataclasses.replace(prepared.places, trials=storage)) | {"watched": False, "judged": []}
    return trial, job | {"backend": "gloo", "gpu_share": 1.0, "cpus_per_worker": 1}


def trained(prepared: Any, storage: Path, folder: Path | None, **fields: Any) -> tuple[dict[str, str], list[dict]]:
    """File -> SHA-256 of a trial's last checkpoint, and its reports; it trains in a fork, or in a new process."""
    trial, job = job_of(prepared, storage, **fields)
    storage.mkdir()
    (storage / "job.json").write_text(json.dumps(job))
    code = (
        f"from tests.sweeps.workers.test_warm import *; in_worker(Path({str(storage)!r}), {folder and str(folder)!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=300)
    checkpoint = storage / trial.digest / "checkpoints" / "epoch-0001"
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in checkpoint.glob("*.safetensors")}
    return sums, [json.loads(line) for line in (storage / "reports").read_text().splitlines()]


def in_worker(storage: Path, folder: str | None) -> None:
    """A worker's part of `trained`."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    with (storage / "reports").open("w") as stream:
        answers = {"report": lambda report: stream.write(json.dumps(report) + "\n"), "noticed": lambda: False}
        job = json.loads((storage / "job.json").read_text())
        assert warm.run(train, job, answers, folder and Path(folder)) == bool(folder)
        assert ("torch" in sys.modules) != bool(folder), "a worker with a warm process needs no torch"


def losses_in(reports: list[dict]) -> list[float]:
    metrics = [one[2] for report in reports for one in report.get("points", ())]
    return [one["train/loss"] for one in metrics if "train/loss" in one]


def test_a_trial_in_a_fork_equals_one_in_a_new_process_to_the_last_bit_whatever_came_before(
    prepared: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="^no such column, 42$"):
        warm.run(fails, {"why": "no such column"}, {"twice": lambda number: 2 * number}, folder)
    diverged, reports = trained(prepared, tmp_path / "diverged", folder, learning_rate=1e30)
    assert not diverged and any("diverged" in report for report in reports)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    _, job = job_of(prepared, tmp_path / "out")
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        warm.run(runs_out_of_memory, job, {"report": lambda report: None, "noticed": lambda: False}, folder)
    dead = worker(folder, "is_killed")
    assert dead.communicate()[0] == "" and dead.returncode == -signal.SIGKILL
    in_fork, reports_of_fork = trained(prepared, tmp_path / "warm", folder)
    anew, reports = trained(prepared, tmp_path / "cold", None)
    assert in_fork == anew and list(anew) == ["model.safetensors"]
    assert losses_in(reports_of_fork) == losses_in(reports) and len(losses_in(reports)) == 5


def test_a_killed_worker_takes_its_fork_with_it(folder: Path) -> None:
    before = serving(folder)
    lost = worker(folder, "sleeps")
    until(lambda: forks_of(folder))
    lost.kill()
    lost.wait()
    until(lambda: not forks_of(folder))
    assert serving(folder) == before or not before


def test_a_killed_warm_process_takes_its_forks_with_it_and_is_followed_by_another(folder: Path) -> None:
    lost = worker(folder, "sleeps")
    until(lambda: forks_of(folder))
    (fork,) = forks_of(folder)
    killed = serving(folder)
    kill(killed)
    assert lost.wait(60) == -signal.SIGKILL
    until(lambda: not command_of(fork))
    parents: list[int] = []
    assert warm.run(says_its_parent, {}, {"say": parents.append}, folder)
    assert parents == [serving(folder)] != [killed]


def test_a_folder_that_others_can_open_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "warm").mkdir(0o755)
    parents: list[int] = []
    assert not warm.run(says_its_parent, {}, {"say": parents.append}, tmp_path / "warm")
    assert parents == [os.getppid()]
