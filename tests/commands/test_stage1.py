"""Stage 1 as a user runs it: real Ray, DeepSpeed workers, evaluation actor and MLflow, on a small random model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import SETTINGS
from tests.support.standins.missing import WITHOUT, run_python
from tests.support.workers import REPOSITORY


def command(model: Path, data: Path, storage: Path, *more: str) -> list[str]:
    """Stage 1 on the random model; its first learning rate works, the second diverges."""
    words = [sys.executable, "sweeps/stage1_lr.py", "--model", str(model), "--dataset", str(data)]
    words += ["--storage", str(storage), "--learning-rates", "1e-3", "1e30"]
    return [*words, *(word for setting in SETTINGS for word in ("--set", setting)), *more]


def run(words: list[str]) -> subprocess.CompletedProcess:
    """Its output, on a terminal of 200 columns that is none."""
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def stage(model_folder: Path, preference_rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The stage run twice in one storage."""
    folder = tmp_path_factory.mktemp("stage1")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = command(model_folder, data, folder / "runs")
    first = run([*words, "--show-examples", "1"])
    started = time.monotonic()
    second = run(words)
    return {"storage": folder / "runs", "first": first, "second": second, "second_seconds": time.monotonic() - started}


@pytest.fixture(scope="module")
def mlflow_runs(stage: dict[str, Any]) -> dict[str, Any]:
    """What is in MLflow after it."""
    return runs_in(stage["storage"])


def runs_in(storage: Path) -> dict[str, Any]:
    """The client, the stage's run and the trials' runs by learning rate."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [found for found in runs if "stage.name" in found.data.tags and "trial.digest" not in found.data.tags]
    trials = {found.data.params["learning_rate"]: found for found in runs if "trial.digest" in found.data.tags}
    assert len(runs) == 1 + len(trials)
    return {"client": client, "parent": parent, "trials": trials}


def test_the_stage_names_its_winner_and_what_comes_next(stage: dict[str, Any]) -> None:
    first = stage["first"]
    assert first.returncode == 0, first.stderr[-3000:]
    assert "1e-3 wins" in first.stdout and "stage2" in first.stdout and "mlflow ui" in first.stdout
    assert re.search(r"1e30 .*diverged", first.stdout)
    assert "<|im_end|>" in first.stdout  # the example asked for, special tokens and all
    (picture,) = (stage["storage"] / "plots").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_libraries_are_silent_unless_asked(stage: dict[str, Any]) -> None:
    words = ("warning", "deprecat", "deepspeed", "raylet", "pid=", "traceback", "it/s]")
    heard = [line for line in (stage["first"].stdout + stage["first"].stderr).splitlines()]
    assert [line for line in heard if any(word in line.lower() for word in words)] == []


def test_a_second_run_trains_nothing_and_says_so_in_seconds(stage: dict[str, Any]) -> None:
    second = stage["second"]
    assert second.returncode == 0, second.stderr[-3000:]
    assert "2 of them finished already" in second.stdout and "1e-3 wins" in second.stdout
    assert ": starting" not in second.stdout
    assert stage["second_seconds"] < 40  # a busy machine; without Ray it is a few


def test_trials_are_children_of_the_stage_with_their_config(mlflow_runs: dict[str, Any]) -> None:
    client, parent, trials = mlflow_runs["client"], mlflow_runs["parent"], mlflow_runs["trials"]
    assert parent.data.tags["winner.learning_rate"] == "0.001"
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} >= {
        "audit.json",
        "examples.json",
        "figures",
        "ranking.json",
    }
    for trial in trials.values():
        assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
        names = {artifact.path for artifact in client.list_artifacts(trial.info.run_id)}
        assert names >= {"trial.json", "environment.json"}
    assert parent.data.tags["stage.winner_digest"] == trials["0.001"].data.tags["trial.digest"]


def test_a_diverged_trial_is_a_failed_run_with_its_reason(mlflow_runs: dict[str, Any]) -> None:
    diverged = mlflow_runs["trials"]["1e+30"]
    assert diverged.info.status == "FAILED"
    assert re.search(r"(loss|gradient norm) is (nan|inf) at step \d", diverged.data.tags["trial.reason"])


def test_no_metric_step_is_written_twice(mlflow_runs: dict[str, Any]) -> None:
    client, trial = mlflow_runs["client"], mlflow_runs["trials"]["0.001"]
    for name in trial.data.metrics:
        steps = Counter(point.step for point in client.get_metric_history(trial.info.run_id, name))
        assert set(steps.values()) == {1}, name
    assert {point.step for point in client.get_metric_history(trial.info.run_id, "train/loss")} == set(range(1, 13))


def test_the_evaluator_and_the_training_loop_give_the_same_number(mlflow_runs: dict[str, Any]) -> None:
    client, trial = mlflow_runs["client"], mlflow_runs["trials"]["0.001"]

    def history(name: str) -> dict[int, float]:
        return {point.step: point.value for point in client.get_metric_history(trial.info.run_id, name)}

    for name in ("reward_accuracy", "policy_accuracy", "logratio_accuracy", "reward_margin", "loss"):
        of_loop, of_evaluator = history(f"validation_curve/{name}"), history(f"validation/{name}")
        for epoch, last_step in ((1, 6), (2, 12)):
            assert of_evaluator[epoch] == pytest.approx(of_loop[last_step], abs=1e-5), name


def test_in_one_process_without_ray_and_deepspeed_the_same_command_gives_the_same_numbers(
    stage: dict[str, Any], mlflow_runs: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    data = stage["storage"].parent / "pairs.jsonl"
    words = command(model_folder, data, tmp_path / "runs", "--runner", "process")[2:]
    program = f"{WITHOUT}\nfrom sweeps.stage1_lr import main\nmain(sys.argv[2:])"
    printed = run_python(program, json.dumps(["ray", "deepspeed"]), *words)
    assert "1e-3 wins" in printed and "mmpo stage2" in printed and "--runner process" in printed
    here = runs_in(tmp_path / "runs")

    def history(runs: dict[str, Any], rate: str, name: str) -> dict[int, float]:
        points = runs["client"].get_metric_history(runs["trials"][rate].info.run_id, name)
        return {point.step: point.value for point in points}

    for name in ("train/loss", "train/gradient_norm", "validation/loss", "validation/reward_margin"):
        ours, theirs = history(here, "0.001", name), history(mlflow_runs, "0.001", name)
        assert ours == {step: pytest.approx(value, rel=1e-5) for step, value in theirs.items()} and len(ours) > 1, name
    for name in ("validation/reward_accuracy", "validation/policy_accuracy", "validation_curve/reward_accuracy"):
        assert history(here, "0.001", name) == history(mlflow_runs, "0.001", name), name
    digests, states = (
        [{rate: run.data.tags[tag] for rate, run in runs["trials"].items()} for runs in (here, mlflow_runs)]
        for tag in ("trial.digest", "trial.state")
    )
    assert digests[0] == digests[1] and states[0] == states[1] == {"0.001": "finished", "1e+30": "diverged"}
    baselines = [runs["parent"].data.tags["baseline.reward_accuracy"] for runs in (here, mlflow_runs)]
    assert baselines[0] == baselines[1]


def test_a_checkpoint_opens_with_transformers_alone(stage: dict[str, Any], mlflow_runs: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    digest = mlflow_runs["trials"]["0.001"].data.tags["trial.digest"]
    folder = stage["storage"] / "trials" / digest / "checkpoints" / "epoch-0002"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Add 1 and 3."}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model.generate(**text, max_new_tokens=2, do_sample=False).shape[1] > 2
    assert json.loads((folder / "trial.json").read_text())["digest"] == digest


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_stage_goes_on_where_it_was(
    workers: str, stage: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    """SIGKILL to the driver and all of Ray after the first epoch's checkpoint; then the same command."""
    from mlflow import MlflowClient

    data, storage = stage["storage"].parent / "pairs.jsonl", tmp_path / "runs"
    words = command(model_folder, data, storage, "--workers-per-trial", workers, "--set", "epochs=40")
    words = [word for word in words if word != "1e30"]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(storage.glob("trials/*/resume/step-*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(5)  # Ray's processes notice that their driver is gone
    again = run(words)
    assert again.returncode == 0, again.stderr[-3000:]
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    trials = [found for found in client.search_runs([experiment.experiment_id]) if "trial.digest" in found.data.tags]
    assert len(trials) == 1 and trials[0].info.status == "FINISHED"
    steps = Counter(point.step for point in client.get_metric_history(trials[0].info.run_id, "train/loss"))
    assert steps == Counter(range(1, 241))
