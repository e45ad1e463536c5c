"""`ray up` and `ray down` of cluster.local.yaml over ssh, and a stage on it: machines are namespaces of this one."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.standins.hosts import Host, Hosts, hosts, missing, within
from tests.support.standins.local_cluster import rendered

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing())]

RUN = "mmpo-sweeps/clusters/run"
RUNS = """
import json, mlflow
client = mlflow.MlflowClient("http://127.0.0.1:5000")
experiments = [one.experiment_id for one in client.search_experiments()]
trials = [one for one in client.search_runs(experiments) if "trial.digest" in one.data.tags]
keys = "validation/reward_accuracy"
print(json.dumps([[one.info.status, one.data.params["learning_rate"], one.data.metrics.get(keys)] for one in trials]))
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Hosts]:
    with hosts(2) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(machines: Hosts) -> str:
    """The file of a cluster that `ray up` has started."""
    file = str(rendered(machines))
    machines.user.run("ray", "get-auth-token", "--generate")
    machines.user.run("ray", "up", "--yes", file, timeout=900)
    return file


def health(host: Host, address: str) -> bool:
    words = host.command("curl", "--silent", "--fail", "--max-time", "10", f"http://{address}:5000/health")
    return subprocess.run(words, capture_output=True).returncode == 0


@contextmanager
def tunnel(machines: Hosts, cluster: str) -> Iterator[None]:
    """Inside, `ray attach --port-forward 5000` is open on the user's machine."""
    words = machines.user.command("ray", "attach", cluster, "--port-forward", "5000")
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    within(60, "MLflow through the tunnel", lambda: health(machines.user, "127.0.0.1"))
    yield
    # All ssh clients of this host: the one that holds the port serves others too, and outlives `ray attach`.
    machines.user.run("pkill", "--full", "^ssh[: ]")
    within(60, "the tunnel's end", lambda: not health(machines.user, "127.0.0.1"))
    process.wait()


def test_both_machines_join(machines: Hosts, cluster: str) -> None:
    def status() -> str:
        return machines.user.run("ray", "exec", cluster, "ray status")

    within(180, "two machines", lambda: re.search(r"/4\.0 CPU", status()))
    for machine in machines.machines:
        assert any("raylet" in command for command in machine.processes().values())


def test_setup_is_not_done_again_and_the_token_is_for_its_owner_alone(machines: Hosts, cluster: str) -> None:
    tokens = set()
    for machine in machines.machines:
        file = machine.home / ".ray" / "auth_token"
        tokens.add(file.read_text())
        assert file.stat().st_mode & 0o077 == 0
        lines = (machine.home / ".bashrc").read_text().count("RAY_AUTH_MODE=token")
        machine.run("bash", str(machine.home / "mmpo-sweeps" / "clusters" / "setup"))
        assert (machine.home / ".bashrc").read_text().count("RAY_AUTH_MODE=token") == lines == 1
    assert len(tokens) == 1


def test_nobody_without_the_token_commands_the_cluster(machines: Hosts, cluster: str) -> None:
    address = f"{machines.machines[0].address}:6379"
    stranger = {"HOME": str(machines.shared), "RAY_ADDRESS": address}
    words = machines.user.command("python", "-c", "import ray; ray.init(); print(ray.nodes())", **stranger)
    for mode in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guessed"}):
        words = machines.user.command("python", "-c", "import ray; ray.init(); print('in')", **stranger, **mode)
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode != 0 and "in" not in done.stdout.split()


def test_mlflow_answers_every_machine_and_the_users_tunnel(machines: Hosts, cluster: str) -> None:
    head, worker = machines.machines
    assert health(worker, head.address)
    assert not health(machines.user, "127.0.0.1")
    with tunnel(machines, cluster):
        pass
    asked = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    assert worker.run(*asked, "--header", "Host: 10.attacker.com", f"http://{head.address}:5000/") == "403"


def test_the_mlflow_server_is_started_again_when_it_ends(machines: Hosts, cluster: str) -> None:
    head = machines.machines[0]
    log = head.home / "mmpo-sweeps" / "mlflow.log"
    (server,) = [pid for pid, words in head.processes().items() if "/mlflow server " in words]
    head.run("kill", "-9", str(server))
    within(300, "a new server", lambda: log.read_text().count("Uvicorn running") == 2 and health(head, "127.0.0.1"))


def test_a_stage_is_spread_over_both_machines_and_finishes(
    machines: Hosts, cluster: str, model_folder: Path, preference_rows: list[dict]
) -> None:
    data, model = machines.shared / "pairs.jsonl", machines.shared / "model"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    shutil.copytree(model_folder, model)
    stage = (
        f"{RUN} sweeps/stage1_lr.py --model {model} --dataset {data} --learning-rates 1e-3 5e-4 --workers-per-trial 2 "
        "--set epochs=3 --set pairs_per_step=6 --set max_prompt_tokens=64 --set max_completion_tokens=32"
    )
    log = machines.shared / "stage.log"  # not a pipe: one that nobody reads would stop the stage when it is full
    with log.open("w") as file:
        words = machines.user.command("ray", "exec", cluster, stage)
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
    trained_on = set()
    while process.poll() is None:
        for machine in machines.machines:
            if any("RayTrainWorker" in command for command in machine.processes().values()):
                trained_on.add(machine.name)
        time.sleep(0.5)
    assert process.returncode == 0, log.read_text()[-8000:]
    assert trained_on == {"node1", "node2"}, log.read_text()[-8000:]
    with tunnel(machines, cluster):
        trials = json.loads(machines.user.run("python", "-c", RUNS))
    assert sorted(rate for _, rate, _ in trials) == ["0.0005", "0.001"]
    assert all(status == "FINISHED" and 0 <= accuracy <= 1 for status, _, accuracy in trials)
    assert (machines.shared / "mmpo" / "trials").is_dir()


def test_a_changed_file_is_taken_over_without_a_restart(machines: Hosts, cluster: str) -> None:
    def raylets() -> list[int]:
        return [
            pid for one in machines.machines for pid, words in one.processes().items() if "/raylet/raylet " in words
        ]

    before, file = raylets(), Path(cluster)
    file.write_text(file.read_text().replace("idle_timeout_minutes: 5", "idle_timeout_minutes: 6"))
    machines.user.run("ray", "up", "--yes", "--no-restart", cluster, timeout=900)
    config = json.loads((machines.machines[0].home / "ray_bootstrap_config.yaml").read_text())
    assert config["idle_timeout_minutes"] == 6 and raylets() == before


def test_after_ray_down_nothing_runs_on_any_machine(machines: Hosts, cluster: str) -> None:
    """The last of this file. A worker's Ray notices within a minute or two that its head is gone."""
    machines.user.run("ray", "down", "--yes", cluster)
    within(240, "the end", lambda: not any(machine.processes() for machine in machines.machines))
    assert (machines.machines[0].home / "mlflow.db").stat().st_size > 0
