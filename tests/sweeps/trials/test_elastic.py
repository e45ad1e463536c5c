"""Elastic trials: the arithmetic of their size, and real ones that lose a node and get another."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmpo_train.config import TrialConfig, from_dict, replace
from tests.support.training import job, losses
from tests.support.workers import REPOSITORY, train_jobs

SECONDS = 240
EPOCHS = 40
STEPS = 6 * EPOCHS
"""Of 36 pairs, four of the forty being held out, six at a time."""


class Pretended:
    """`OneNode` for trials of two to four workers with a CPU and a GPU each, on nodes that are a table."""

    def __init__(self, monkeypatch: Any, free: dict[str, dict[str, float]]) -> None:
        from ray.train import ScalingConfig

        import sweeps.trials.elastic

        self.free = free
        monkeypatch.setattr(sweeps.trials.elastic, "available_resources_per_node", lambda: self.free)
        two_to_four: Any = (2, 4)
        each = {"CPU": 1, "GPU": 1}
        scaling = ScalingConfig(num_workers=two_to_four, use_gpu=True, resources_per_worker=each)
        self.policy = sweeps.trials.elastic.OneNode(scaling)
        monkeypatch.setattr(self.policy, "_maybe_send_resource_request", lambda: None)
        monkeypatch.setattr(sweeps.trials.elastic, "_SECONDS_BETWEEN_LOOKS", 0.0)

    def start(self) -> int:
        """How many workers a group begins with; 0 where it waits."""
        return getattr(self.policy.make_decision_for_non_running_worker_group(), "num_workers", 0)

    def after(self, *reports: dict[str, int] | None, node: str = "a") -> int:
        """To how many workers a running group on one node changes; 0 where it stays as it is."""
        workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for _ in reports]
        heard = [SimpleNamespace(training_report=report and SimpleNamespace(metrics=report)) for report in reports]
        decision = self.policy.make_decision_for_running_worker_group(
            SimpleNamespace(workers=workers, num_workers=len(workers)),
            SimpleNamespace(worker_statuses=dict(enumerate(heard))),
        )
        return getattr(decision, "num_workers", 0)


def gpus(**free: float) -> dict[str, dict[str, float]]:
    return {node: {"CPU": 8.0, "GPU": number} for node, number in free.items()}


def test_it_begins_with_what_one_node_has_free_and_waits_for_as_many_as_it_needs_at_least(monkeypatch):
    nodes = Pretended(monkeypatch, gpus(a=1, b=1, c=1))
    assert nodes.start() == 0, "three on three nodes are not two on one"
    nodes.free = gpus(a=1, b=3)
    assert nodes.start() == 3
    nodes.free = gpus(a=8)
    assert nodes.start() == 4
    nodes.free = {"a": {"CPU": 1.0, "GPU": 4.0}, "b": {"GPU": 4.0}}
    assert nodes.start() == 0, "a worker needs a CPU too"


def test_it_grows_only_when_all_workers_have_just_written_a_state(monkeypatch):
    nodes = Pretended(monkeypatch, gpus(a=2, b=3))
    written, point = {"safe": 120}, {"points": 1}
    assert nodes.after(point, point) == nodes.after({"safe": 0}, {"safe": 0}) == nodes.after(written, None) == 0
    assert nodes.after(point, written) == 4, "two of its own and two that are free"
    assert nodes.after(point, point) == 0
    nodes.free = gpus(a=0, b=3)
    assert nodes.after(written, written) == 3, "on another node"
    nodes.free = gpus(a=0, b=2)
    assert nodes.after(written, written) == 0, "no more than it has"


def test_what_a_failed_group_held_is_free_for_the_next_one_and_counted_once(monkeypatch):
    """Train stops the old workers only after it has decided how many the new ones are."""
    nodes = Pretended(monkeypatch, gpus(a=1))
    assert nodes.start() == 0
    nodes.after(None, None, None)
    assert nodes.start() == 4
    nodes.policy.before_controller_execute_resize_decision(None)
    assert nodes.start() == 0  # these four could not be placed: others are there
    nodes.after(None, None, node="b")
    nodes.free = gpus(a=3)
    assert nodes.start() == 3, "the node is lost with what was held there"


@pytest.mark.slow
def test_a_trial_that_loses_its_node_goes_on_with_fewer_workers_and_then_with_more(
    prepared: Any, model_folder: Path, preference_rows: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raylets of a head without CPUs, of two and of one; the one of two is killed, and a new one comes later."""
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(dir="/tmp"))  # Ray's sockets need a short path
    import ray
    from ray._private.state import available_resources_per_node
    from ray.cluster_utils import Cluster

    data, storage = tmp_path / "pairs.jsonl", tmp_path / "runs"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    values = {"pairs_per_step": 6, "epochs": EPOCHS, "max_prompt_tokens": 64, "max_completion_tokens": 32}
    settings = values | {"validate_every_steps": 100, "checkpoint_minutes": 0.02, "tokens_per_pass": 512}
    words = [sys.executable, "sweeps/stage1_lr.py", "--model", str(model_folder), "--dataset", str(data)]
    words += ["--storage", str(storage), "--learning-rates", "1e-3", "--workers-per-trial", "2"]
    words += ["--min-workers-per-trial", "1"]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    lost, small = nodes.add_node(num_cpus=2), nodes.add_node(num_cpus=1)
    environment = os.environ | {"RAY_ADDRESS": nodes.address, "COLUMNS": "200"}
    log = (tmp_path / "stage.log").open("w")
    stage = subprocess.Popen(words, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def until(what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + SECONDS
        while not what():
            assert stage.poll() is None and time.monotonic() < deadline, (tmp_path / "stage.log").read_text()[-3000:]
            time.sleep(0.2)

    def is_full(node: Any) -> bool:
        free = available_resources_per_node().get(node.node_id)
        return free is not None and not free.get("CPU")

    def newest() -> int:
        names = [path.parent.name for path in storage.glob("trials/*/resume/step-*/manifest.json")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    try:
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        until(newest)
        assert is_full(lost) and not is_full(small)
        nodes.remove_node(lost, allow_graceful=False)
        until(lambda: is_full(small))
        came = nodes.add_node(num_cpus=2)
        until(lambda: is_full(came))
        grown_after = newest()
        stage.wait(timeout=SECONDS)
        text = (tmp_path / "stage.log").read_text()
        assert stage.returncode == 0 and "1e-3 wins" in text, text[-3000:]
        assert 0 < grown_after < STEPS - 1
    finally:
        stage.kill()
        stage.wait()
        ray.shutdown()
        nodes.shutdown()

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    (trial,) = [run for run in client.search_runs([experiment.experiment_id]) if "trial.digest" in run.data.tags]
    history = client.get_metric_history(trial.info.run_id, "train/loss")
    assert Counter(point.step for point in history) == Counter(range(1, STEPS + 1))
    [described] = storage.glob("trials/*/trial.json")
    config: TrialConfig = from_dict(json.loads(described.read_text())["config"])
    assert replace(config, {"zero_stage": 0}).digest == trial.data.tags["trial.digest"]
    [undisturbed] = train_jobs([job(config, prepared.places, tmp_path / "alone")], workers=1, engine="torch")
    expected = losses(undisturbed)
    assert max(abs(point.value - expected[point.step]) for point in history) < 1e-4 * max(expected.values())
