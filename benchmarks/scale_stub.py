"""What stands for training, evaluation and machines where the rest of a stage is measured (`benchmarks/scale.py`).

A stub trial asks Ray for the same place as a real one, waits, reports points and an epoch's end as a real one does, and
computes nothing. The evaluator has the real one's starting model, and makes up what a checkpoint scores. Nodes are real
raylets of this machine that say they have GPUs.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from eval_workers.warm_evaluators import WarmReward

NAMES = (
    "epoch", "learning_rate", "gradient_norm", "loss", "reward_accuracy", "chosen_reward", "rejected_reward",
    "reward_margin", "chosen_logps", "rejected_logps", "rejected_weight", "saturated_share", "pairs_per_second",
    "tokens_per_second", "step_seconds",
)  # fmt: skip
"""As many metrics of a step as MMPO logs."""
PAIRS = 2500  # as the paper validates on
FIRST = 8.0
"""A driver's first trial is so many times as long as others. Else trials of seconds would end while the processes of
further drivers start, and Tune would give their places to the drivers that are free, again and again."""
REPORTS = 10
TIMES = "MMPO_SCALE_TIMES"


_driven: list[str] = []
"""Trials that this process has driven."""


def drive_stub(space: dict[str, Any]) -> None:
    """In the place of `sweeps.trials.train_job.drive_trial`: Tune's own process for the trial, and no other."""
    import ray
    from ray import tune
    from ray.util import placement_group, remove_placement_group

    job, shape = space["job"], json.loads(os.environ["MMPO_SCALE_STUB"])
    asked = time.time()
    one = {
        "CPU": job["cpus_per_worker"],
        "GPU": job["gpus_per_worker"],
        f"accelerator_type:{job['accelerator_type']}": 0.001,
    }
    workers = placement_group([one] * job["workers"], strategy="STRICT_PACK")
    ray.get(workers.ready())
    placed = time.time()
    tune.report({"workers": job["workers"]})
    draw = random.Random(job["digest"])
    seconds = shape["seconds"] * (1 if _driven else FIRST)
    _driven.append(job["digest"])
    steps = shape["points"] // REPORTS
    for report in range(REPORTS):
        time.sleep(seconds / REPORTS)
        points = [point(report * steps + number + 1, shape["points"], draw) for number in range(steps)]
        last = report == REPORTS - 1
        tune.report({"points": points, "finished": (1, f"/nowhere/{job['digest']}") if last else None})
    remove_placement_group(workers)
    times = {"digest": job["digest"], "asked": asked, "placed": placed, "ended": time.time()}
    with open(os.environ[TIMES], "a") as file:
        file.write(json.dumps(times) + "\n")


def point(step: int, steps: int, draw: random.Random) -> tuple[int, int, dict[str, float]]:
    """A step's metrics, with the validation curve's at every 32nd."""
    metrics = {f"train/{name}": draw.random() for name in NAMES} | {"train/epoch": step / steps}
    if step % 32 == 0 or step == steps:
        metrics |= {f"validation_curve/{name}": draw.random() for name in ("reward_accuracy", "loss", "margin")}
    return step, time.time_ns() // 1_000_000, metrics


def make_inputs(folder: Path) -> list[str]:
    """A random model of `tiny`'s architecture and a few pairs, made in seconds; gives the options that name them."""
    import torch

    from mmpo_train.model.policy import quieten
    from mmpo_train.tiny import model as tiny
    from mmpo_train.tiny.rows import instruction_examples

    quieten()
    tokenizer = tiny.train_tokenizer(instruction_examples())
    torch.manual_seed(0)
    tiny.new_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": f"Is {number} even?", "chosen": "Yes.", "rejected": "Never, no."} for number in range(80)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", str(folder / "model"), "--recipe", "tiny", "--dataset", str(folder / "pairs.jsonl")]


class StubEvaluator(WarmReward):
    """In the place of `WarmReward`: it makes up what a checkpoint scores."""

    def evaluate(self, checkpoint: str, tokens: str, reference: str, kept: str) -> dict[str, Any]:
        draw = random.Random(checkpoint)
        correct = [int(draw.random() < 0.6) for _ in range(PAIRS)]
        accuracy = sum(correct) / PAIRS
        return {"metrics": {"validation/reward_accuracy": accuracy, "validation/loss": 1.0}, "correct": correct}


def start_nodes(count: int, gpus: int, head_gigabytes: int) -> Any:
    """A head and so many nodes of GPUs that exist by name only; as light as raylets can be made."""
    from ray._private import services, utils
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 16, "num_gpus": 0, "memory": head_gigabytes * 2**30, "include_dashboard": False,
                        "dashboard_host": "127.0.0.1"},
    )  # fmt: skip
    # Agents without an HTTP server of their own: 50 times 40 MB less.
    services.ray._private.utils.get_dashboard_dependency_error = lambda: ImportError("left out")
    assert utils.get_dashboard_dependency_error() is not None
    for _ in range(count):
        resources = {"accelerator_type:L40S": 1}
        cluster.add_node(num_cpus=16, num_gpus=gpus, resources=resources, object_store_memory=80 * 2**20)
    return cluster


def read_times(path: Path) -> list[dict[str, Any]]:
    """What the stubs wrote, in the order in which they ended."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
