"""A stage whose checkpoints go to every evaluator as they appear: Ray, actors, MLflow, and a judge on localhost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import evaluation_command
from tests.support.standins.judge_server import Fault, JudgeServer
from tests.support.workers import REPOSITORY

pytestmark = pytest.mark.slow


def finished_trials(storage: Path) -> tuple[Any, list[Any]]:
    """MLflow's client and the runs of the two trials."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    trials = [run for run in client.search_runs([experiment.experiment_id]) if "trial.digest" in run.data.tags]
    assert len(trials) == 2 and all(run.data.tags["trial.state"] == "finished" for run in trials)
    return client, trials


def test_every_suite_lands_at_its_epoch_and_one_that_fails_fails_nothing_else(
    model_folder: Path, preference_rows: list[dict], tmp_path: Path, folders: dict[str, Path]
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))

    def fault_of(request: Any) -> Fault:
        # Arena-Hard's questions end in "and 2.", AlpacaEval's prompts in "and 3.".
        return Fault(status=404, message="gone") if "and 2." in request.shown("question") else Fault()

    with JudgeServer() as server:
        server.fault_of = fault_of
        words = evaluation_command(model_folder, data, tmp_path / "runs", server.spec(), folders)
        environment = os.environ | {"COLUMNS": "200"}
        result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    assert "without arena" in result.stdout and "Traceback" not in result.stdout + result.stderr, result.stdout
    client, trials = finished_trials(tmp_path / "runs")
    for run in trials:
        for metric in ("harness/mean_accuracy", "alpaca/win_rate"):
            history = client.get_metric_history(run.info.run_id, metric)
            assert sorted(point.step for point in history) == [2, 3], "every second epoch, and the last"
        assert "arena_hard/win_rate" not in run.data.metrics
        assert "gone" in run.data.tags["evaluation.arena.epoch-0003"]
        kept = {file.path for file in client.list_artifacts(run.info.run_id, "evaluations/epoch-0003")}
        assert {"evaluations/epoch-0003/harness", "evaluations/epoch-0003/alpaca"} <= kept


def test_a_finished_trial_is_judged_by_what_it_was_not_and_trained_no_more(
    model_folder: Path, preference_rows: list[dict], tmp_path: Path, folders: dict[str, Path]
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    with_all = evaluation_command(model_folder, data, tmp_path / "runs", "openai:none", folders)
    place = with_all.index("evaluations=reward,harness,alpaca,arena")
    seen = []
    for suites in ("reward", "reward,harness", "reward,harness"):
        words = [*with_all[:place], f"evaluations={suites}", *with_all[place + 1 :]]
        result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
        client, trials = finished_trials(tmp_path / "runs")
        losses = [len(client.get_metric_history(run.info.run_id, "train/loss")) for run in trials]
        seen.append(
            (
                losses,
                ["harness/mean_accuracy" in run.data.metrics for run in trials],
                "nothing to train" in result.stdout,
            )
        )
    assert [harness for _, harness, _ in seen] == [[False] * 2, [True] * 2, [True] * 2]
    assert seen[0][0] == seen[1][0] == seen[2][0], "no step was trained again"
    assert [nothing for _, _, nothing in seen] == [False, False, True]


def test_an_evaluation_that_cannot_run_is_refused_before_anything_is_trained(
    model_folder: Path, preference_rows: list[dict], tmp_path: Path, folders: dict[str, Path]
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = evaluation_command(model_folder, data, tmp_path / "runs", "openai:some-model", folders)
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert result.returncode == 2 and "OPENAI_API_KEY" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "runs" / "trials").exists()


def test_an_actor_that_dies_is_replaced_and_its_work_done_again(model_folder: Path, tmp_path: Path) -> None:
    program = """
import json, sys, time
import ray
from eval_workers.actors import Actors
from eval_workers.settings import EvaluationSettings
from eval_workers.warm_evaluators import WarmSuite
from tests.support.checkpoints import tiny_tasks
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
model, folder = sys.argv[1:]
settings = EvaluationSettings(harness_tasks=tiny_tasks()).plain()
actor = Actors({"num_gpus": 0}).start(WarmSuite, "harness", settings, folder, False, "fp32")
folders = {"checkpoint": model, "starting_model": model}
requests = [folders | {"artifacts": f"{folder}/{number}"} for number in range(2)]
whole = ray.get(actor.evaluate.remote(requests[0]))
again = actor.evaluate.remote(requests[1])
time.sleep(0.2)
assert not ray.wait([again], timeout=0)[0], "it should be at work"
ray.kill(actor, no_restart=False)
print(json.dumps([whole["metrics"], ray.get(again)["metrics"]]))
"""
    words = [sys.executable, "-c", program, str(model_folder), str(tmp_path)]
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    whole, again = json.loads(result.stdout.splitlines()[-1])
    assert whole == again and "harness/mean_accuracy" in whole


def test_a_sweep_without_some_tasks_data_is_refused_before_it_starts(
    model_folder: Path, preference_rows: list[dict], tmp_path: Path, folders: dict[str, Path]
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = evaluation_command(model_folder, data, tmp_path / "runs", "openai:none", folders)
    words[words.index("evaluations=reward,harness,alpaca,arena")] = "evaluations=reward,harness"
    place = words.index("--evaluation.harness-tasks")
    words = [*words[:place], *words[place + 3 :], "--evaluation.task-data", str(folders["arena"])]
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2 and "winogrande" in result.stderr and "race" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "runs" / "trials").exists()
