"""Evaluating on a GPU: generation, the harness's log-likelihoods, and stage 1 with Ray, evaluator and MLflow."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from eval_workers.answers.generation import Generator
from eval_workers.answers.sampling import Sampling
from eval_workers.harness.loglikelihoods import Requests
from mmpo_train.metric_names import REWARD_ACCURACY
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.scoring import model_forward
from tests.support.checkpoints import tiny_tasks
from tests.support.commands import SETTINGS
from tests.support.generation import generate
from tests.support.workers import REPOSITORY

pytestmark = pytest.mark.gpu

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


def test_greedy_answers_in_fp32_are_those_of_the_library(model_folder: Path, device: torch.device) -> None:
    generator = Generator()
    generator.load(model_folder, [0], precision="fp32")
    found = generate(generator, PROMPTS, [Sampling(temperature=0.0, max_new_tokens=6)])
    model: Any = load_model(model_folder, device=device)
    model = model.to(device)
    for prompt, [answer] in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt], device=device)
        whole = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=sorted(generator.ends))
        assert list(answer.ids) == whole[0, len(prompt) :].tolist()


def test_the_harness_in_bf16_reaches_the_kernel_and_is_near_fp32(
    model_folder: Path, device: torch.device, kernel: list[int]
) -> None:
    requests = Requests([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([7, 8], [9])], 64)
    results = {}
    for precision in ("fp32", "bf16"):
        forward = model_forward(CompletionLogps(load_model(model_folder)), device, precision)
        results[precision] = requests.score(forward, device, precision)
        assert bool(kernel) == (precision == "bf16")
    assert results["bf16"] == pytest.approx(results["fp32"], rel=0.05)


def test_stage_1_with_ray_an_evaluator_and_mlflow_trains_two_trials_on_one_gpu(
    model_folder: Path, preference_rows: list[dict], tmp_path: Path
) -> None:
    data, storage = tmp_path / "pairs.jsonl", tmp_path / "runs"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = [sys.executable, "sweeps/stage1_lr.py", "--model", str(model_folder), "--dataset", str(data)]
    words += ["--storage", str(storage), "--learning-rates", "1e-3", "1e-4", "--gpus-per-worker", "0.5"]
    words += ["--set", "evaluations=reward,harness", "--evaluation.harness-tasks", tiny_tasks()[0]]
    words += [*(word for setting in SETTINGS for word in ("--set", setting)), "--evaluation.limit", "6"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    [experiment] = [found for found in client.search_experiments() if found.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], "tags.`trial.state` = 'finished'")
    trials = [found for found in runs if "trial.digest" in found.data.tags and "learning_rate" in found.data.params]
    on_gpu = torch.cuda.is_available()
    for trial in trials:
        assert trial.data.params["precision"] == ("bf16" if on_gpu else "fp32")
        assert trial.data.tags["trial.hardware"].startswith("0.5 x " if on_gpu else "1 x CPU")
        assert math.isfinite(trial.data.metrics[REWARD_ACCURACY])
    assert {trial.data.params["learning_rate"] for trial in trials} == {"0.001", "0.0001"}
