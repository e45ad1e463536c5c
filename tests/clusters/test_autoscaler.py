"""Ray's autoscaler on the node types of cluster.yaml: machines are fake, everything that runs on them is real.

Their GPUs are numbers that trials are placed by (MMPO_LOGICAL_GPUS); training is on CPUs.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.standins.autoscaled import Cluster, autoscaled
from tests.support.standins.hosts import missing, within

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing())]

SETTINGS = ("epochs=3", "pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32")
ASK = """
import ray
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=0, num_gpus=1, accelerator_type="L40S")
def here():
    return True
ray.get(here.remote())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with autoscaled() as made:
        yield made


@pytest.fixture(scope="module")
def inputs(cluster: Cluster, model_folder: Path, preference_rows: list[dict]) -> tuple[str, ...]:
    """A small random model and 240 pairs, where the cluster sees them."""
    data, model = cluster.shared / "pairs.jsonl", cluster.shared / "model"
    rows = [row | {"prompt": f"{row['prompt']} ({copy})"} for copy in range(6) for row in preference_rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(model_folder, model)
    return "--model", str(model), "--dataset", str(data), *(word for one in SETTINGS for word in ("--set", one))


def start(cluster: Cluster, inputs: tuple[str, ...], storage: str, *more: str) -> subprocess.Popen:
    """Stage 1, begun on the head."""
    words = ["python", "sweeps/stage1_lr.py", *inputs, "--storage", str(cluster.shared / storage), *more]
    log = (cluster.shared / f"{storage}.log").open("w")
    return subprocess.Popen(cluster.host.command(*words, **cluster.environment()), stdout=log, stderr=subprocess.STDOUT)


def finish(cluster: Cluster, stage: subprocess.Popen, storage: str) -> set[str]:
    """Node types that trained until the stage was done."""
    seen: set[str] = set()
    while stage.poll() is None:
        seen |= set(cluster.training().values())
        time.sleep(1)
    assert stage.returncode == 0, (cluster.shared / f"{storage}.log").read_text()[-8000:]
    return seen


def curves(cluster: Cluster, storage: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Learning rate -> metric -> (step, value), of the ledger."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{cluster.shared / storage}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    found: dict[str, Any] = {}
    for run in client.search_runs(experiments):
        if "trial.digest" in run.data.tags:
            assert run.info.status == "FINISHED"
            names = [name for name in run.data.metrics if name in ("train/loss", "validation/reward_accuracy")]
            histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
            rate = run.data.params["learning_rate"]
            assert rate not in found, "a trial that is there twice"
            found[rate] = {name: [(one.step, one.value) for one in history] for name, history in histories.items()}
    return found


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, inputs: tuple[str, ...]) -> dict[str, Any]:
    """Two trials of two workers and an evaluator's GPU: two machines of four GPUs."""
    assert cluster.raylets() == {}
    words = ("--accelerator", "L40S", "--workers-per-trial", "2", "--evaluation.gpus-per-actor", "1")
    words += ("--learning-rates", "1e-3", "5e-4")
    stage = start(cluster, inputs, "calm", *words)
    most: list[str] = []
    while stage.poll() is None:
        now = sorted(cluster.raylets().values())
        most = max(most, now, key=len)
        time.sleep(1)
    assert stage.returncode == 0, (cluster.shared / "calm.log").read_text()[-8000:]
    return {"words": words, "nodes": most, "curves": curves(cluster, "calm")}


def test_machines_of_the_right_type_come_for_a_stage_and_no_others(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["nodes"] == ["l40s_spot", "l40s_spot"]
    assert {rate: len(found["train/loss"]) for rate, found in undisturbed["curves"].items()} == {
        "0.001": 108,
        "0.0005": 108,
    }


def test_all_of_them_go_when_idle(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    within(180, "no machine", lambda: not cluster.raylets())


def test_a_machine_lost_in_the_middle_of_a_trial_changes_no_result(
    cluster: Cluster, inputs: tuple[str, ...], undisturbed: dict[str, Any]
) -> None:
    stage = start(cluster, inputs, "disturbed", *undisturbed["words"])
    resumable = cluster.shared / "disturbed" / "trials"
    within(600, "a checkpoint", lambda: stage.poll() is not None or any(resumable.glob("*/resume/*/manifest.json")))
    lost = next(iter(cluster.training()))
    cluster.host.run("kill", "-9", str(lost))
    finish(cluster, stage, "disturbed")
    calm, disturbed = undisturbed["curves"], curves(cluster, "disturbed")
    assert disturbed.keys() == calm.keys()
    for rate, metrics in calm.items():
        for name, points in metrics.items():
            steps, values = zip(*points)
            steps_again, values_again = zip(*disturbed[rate][name])
            assert steps_again == steps, "a step twice, or missing"
            assert values_again == pytest.approx(values, abs=1e-5)


def test_h100_machines_come_for_what_asks_for_them_and_go(cluster: Cluster, inputs: tuple[str, ...]) -> None:
    within(180, "no machine", lambda: not cluster.raylets())
    words = ("--accelerator", "H100", "--workers-per-trial", "1", "--learning-rates", "2e-3")
    assert finish(cluster, start(cluster, inputs, "hopper", *words), "hopper") == {"h100_spot"}
    assert set(cluster.raylets().values()) <= {"h100_spot"}
    within(180, "no machine", lambda: not cluster.raylets())


def test_where_there_is_no_such_machine_the_stage_says_so_at_once(cluster: Cluster, inputs: tuple[str, ...]) -> None:
    stage = start(cluster, inputs, "nowhere", "--accelerator", "H100", "--workers-per-trial", "9")
    assert stage.wait(timeout=300) != 0
    said = (cluster.shared / "nowhere.log").read_text()
    assert "--workers-per-trial 8 or fewer" in said, said[-4000:]
    assert cluster.raylets() == {}


def test_on_demand_machines_come_when_the_numbers_at_the_top_say_so(cluster: Cluster) -> None:
    """The last of this file: it changes the cluster. No spot, one on-demand machine."""

    def switch(config: dict[str, Any]) -> None:
        config["available_node_types"]["l40s_spot"]["max_workers"] = 0
        config["available_node_types"]["l40s_on_demand"]["max_workers"] = 1

    cluster.change(switch)
    cluster.host.run("python", "-c", ASK, **cluster.environment())
    assert set(cluster.raylets().values()) == {"l40s_on_demand"}
