"""clusters/slurm.sbatch on a real Slurm: its daemons on two machines made of namespaces, a job, what is left of it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.standins.hosts import Hosts, hosts, missing, within

_DAEMONS = "/usr/sbin:/usr/bin"
_LACKING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=_DAEMONS)]
_WHY = missing() or (f"Slurm is not installed (slurmctld, slurmd, slurm-client): no {_LACKING[0]}" if _LACKING else "")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.skipif(bool(_WHY), reason=_WHY)]

CONFIGURATION = """
ClusterName=ours
SlurmctldHost=node1
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MailProg=/bin/true
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldLogFile=/tmp/slurmctld.log
SlurmdLogFile=/tmp/slurmd.log
"""


@dataclass(frozen=True)
class Slurm:
    """Two nodes, and the environment of a user whose home they share."""

    hosts: Hosts
    environment: dict[str, str]

    def jobs(self) -> str:
        """Those that wait or run."""
        return self.hosts.machines[0].run("squeue", "--noheader", **self.environment)

    def submit(self, log: Path, *words: str) -> subprocess.Popen:
        """A job of the recipe on both nodes, waited for by the process that comes back."""
        job = ["sbatch", "--wait", "--nodes=2", f"--output={log}", "clusters/slurm.sbatch", *words]
        return subprocess.Popen(self.hosts.machines[0].command(*job, **self.environment), stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with hosts(2) as made:
        file, key = made.shared / "slurm.conf", made.shared / "munge.key"
        nodes = [f"NodeName={one.name} NodeAddr={one.address} CPUs=2 RealMemory=4000" for one in made.machines]
        file.write_text("\n".join([CONFIGURATION, *nodes, "PartitionName=all Nodes=ALL Default=YES State=UP", ""]))
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        environment = {"SLURM_CONF": str(file), "HOME": str(made.shared / "home"), "USER": "root"}
        (made.shared / "home").mkdir()
        for machine in made.machines:
            machine.run("mkdir", "-p", "/run/munge", "/tmp/slurmctld", "/tmp/slurmd")
            places = [f"--{name}-file=/run/munge/munge.{name}" for name in ("pid", "seed", "log")]
            machine.run("munged", "--force", f"--key-file={key}", "--socket=/run/munge/munge.socket.2", *places)
        made.machines[0].run("slurmctld", **environment)
        for machine in made.machines:
            machine.run("slurmd", "-N", machine.name, **environment)

        def idle() -> bool:
            states = made.machines[0].run("sinfo", "--noheader", "--format=%D %t", **environment)
            return states.split() == ["2", "idle"]

        within(60, "two idle nodes", idle)
        yield Slurm(made, environment)


def rays(slurm: Slurm) -> list[str]:
    return [words for one in slurm.hosts.machines for words in one.processes().values() if "raylet" in words]


def test_a_job_trains_on_all_of_its_nodes_and_leaves_nothing(
    slurm: Slurm, model_folder: Path, preference_rows: list[dict]
) -> None:
    shared = slurm.hosts.shared
    data, model, log = shared / "pairs.jsonl", shared / "model", shared / "job.log"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    shutil.copytree(model_folder, model)
    settings = ("epochs=3", "pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32")
    stage = ["sweeps/stage1_lr.py", "--model", str(model), "--dataset", str(data), "--storage", str(shared / "mmpo")]
    stage += ["--learning-rates", "1e-3", "5e-4", "--workers-per-trial", "2"]
    job = slurm.submit(log, *stage, *(word for one in settings for word in ("--set", one)))
    trained_on = set()
    while job.poll() is None:
        for machine in slurm.hosts.machines:
            if any("RayTrainWorker" in words for words in machine.processes().values()):
                trained_on.add(machine.name)
        time.sleep(0.5)
    assert job.returncode == 0, log.read_text()[-8000:]
    assert trained_on == {"node1", "node2"}, log.read_text()[-8000:]
    within(60, "no Ray", lambda: not rays(slurm))
    assert slurm.jobs() == ""
    assert (shared / "home" / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


def test_a_job_whose_stage_fails_fails_and_leaves_nothing(slurm: Slurm) -> None:
    log = slurm.hosts.shared / "failed.log"
    job = slurm.submit(log, "sweeps/stage1_lr.py", "--dataset", str(slurm.hosts.shared / "nowhere.jsonl"))
    assert job.wait(timeout=600) == 2, log.read_text()[-8000:]
    assert "nowhere.jsonl" in log.read_text()
    within(60, "no Ray", lambda: not rays(slurm))
