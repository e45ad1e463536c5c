"""A stage on a real cluster of several raylets whose GPUs are numbers only: who sits where, and the same results."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmpo_train.terminal import console
from sweeps import stage1_lr
from tests.support.commands import SETTINGS

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs, a node with H100s, and one with L40S to which a second is added while the stage runs."""
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray's own count of GPUs goes by it
    patient = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}  # on a busy machine
    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": patient})
    there.add_node(num_cpus=4, num_gpus=4, resources={"accelerator_type:H100": 1})
    there.add_node(num_cpus=2, num_gpus=2, resources={"accelerator_type:L40S": 1})
    monkeypatch.setenv("RAY_ADDRESS", there.address)
    monkeypatch.setenv("MMPO_LOGICAL_GPUS", "1")
    yield there
    there.shutdown()


def watch(nodes: dict[str, dict[str, float]], actors: dict[str, set[str]], grow, stop: threading.Event) -> None:
    """Fill in what each node ever gave away of each resource, and where each class of actors ever was."""
    import ray
    from ray._private.state import actors as all_actors  # of the GCS: a cluster of tests has no dashboard to ask
    from ray._private.state import available_resources_per_node

    grown = False
    while not stop.wait(0.5):
        if not ray.is_initialized():
            continue
        try:
            total = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
            for node, free in available_resources_per_node().items():
                for name, amount in total.get(node, {}).items():
                    used = amount - free.get(name, 0.0)
                    nodes.setdefault(node, {})[name] = max(used, nodes.get(node, {}).get(name, 0.0))
            for actor in all_actors().values():
                if actor["State"] == "ALIVE":
                    actors.setdefault(actor["ActorClassName"], set()).add(actor["Address"]["NodeID"])
            if not grown and "RayTrainWorker" in actors:
                grow()
                grown = True
        except Exception as error:  # noqa: BLE001  (the stage ends when it likes, in the middle of a question)
            actors.setdefault(f"missed: {type(error).__name__}", set())


def test_trials_run_on_the_type_asked_for_and_everything_else_on_the_head(
    cluster, model_folder: Path, preference_rows: list[dict], tmp_path: Path, monkeypatch, capsys
):
    """Three trials of two workers on nodes of two GPUs: one at a time at first, two when the second node is there."""
    import ray

    monkeypatch.setattr(console, "_width", 200)
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = ["--model", str(model_folder), "--dataset", str(data), "--storage", str(tmp_path / "runs")]
    words += ["--learning-rates", "1e-3", "2e-3", "3e-3"]
    words += [word for setting in SETTINGS if "epochs" not in setting for word in ("--set", setting)]
    words += ["--set", "epochs=40"]  # the second node needs seconds to join
    nodes: dict[str, dict[str, float]] = {}
    actors: dict[str, set[str]] = {}
    boards: list[int] = []
    stop = threading.Event()
    second: list[subprocess.Popen] = []
    watching = threading.Thread(target=watch, args=(nodes, actors, lambda: second.append(_join(cluster)), stop))
    kinds = {node["NodeID"]: node["Resources"] for node in _nodes(cluster.address)}
    heads = {node for node, resources in kinds.items() if "node:__internal_head__" in resources}
    h100 = {node for node, resources in kinds.items() if "accelerator_type:H100" in resources}
    monkeypatch.setattr("sweeps.trials.concurrency._LOOK_SECONDS", 1.0)
    pace = __import__("sweeps.trials.on_ray", fromlist=["concurrency"]).concurrency
    monkeypatch.setattr("sweeps.trials.on_ray.concurrency", lambda *given: boards.append(pace(*given)) or boards[-1])
    watching.start()
    try:
        stage1_lr.main([*words, "--accelerator", "L40S", "--workers-per-trial", "2"])
    finally:
        stop.set()
        watching.join()
        for node in second:
            node.terminate()
            node.wait()
    said = capsys.readouterr().out
    assert "evaluators share the training GPUs" in said
    assert not ray.is_initialized()
    [head], [other] = heads, h100
    assert nodes[other].get("GPU", 0) == 0 and nodes[other].get("CPU", 0) == 0, nodes[other]
    done_without = ("TrainController", "_QueueActor", "DatasetManager", "AutoscalingCoordinator")
    assert not [kind for kind in actors if any(name in kind for name in done_without)]
    for name in ("ImplicitFunc", "SynchronizationActor"):
        found = {node for kind, places in actors.items() if name in kind for node in places}
        assert found == {head}, (name, actors)
    workers = {node for kind, places in actors.items() if "RayTrainWorker" in kind for node in places}
    assert len(workers) == 2 and not workers & {head, other}
    assert boards[0] == 1 and max(boards) == 2  # it grew with the cluster

    monkeypatch.delenv("RAY_ADDRESS")
    stage1_lr.main([*words, "--dry-run"])
    assert "0 to train, 3 to reuse" in capsys.readouterr().out  # one worker here, the same trials


def _join(cluster) -> subprocess.Popen:
    """Another node with two L40S; its end is its raylet's. `Cluster` adds nodes in the main thread only."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={cluster.address}"]
    words += ["--num-cpus=2", "--num-gpus=2", "--resources", json.dumps({"accelerator_type:L40S": 1})]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _nodes(address: str) -> list[dict]:
    """Ray's table of them."""
    import ray

    ray.init(address, logging_level="ERROR")
    time.sleep(1)
    try:
        return ray.nodes()
    finally:
        ray.shutdown()
