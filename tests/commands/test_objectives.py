"""The table of objectives as a user makes it: Ray, DeepSpeed, warm actors, MLflow, and a judge on localhost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.standins.judge_server import Fault, JudgeServer
from tests.support.workers import REPOSITORY

pytestmark = pytest.mark.slow

SETTINGS = ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=16", "segments=2")


def command(model: Path, data: Path, storage: Path, judge: str, objectives: tuple[str, ...]) -> list[str]:
    words = [sys.executable, "sweeps/objectives.py", "--model", str(model), "--dataset", str(data)]
    words += ["--storage", str(storage), "--judge", judge, "--learning-rates", "1e-3", "--objectives", *objectives]
    return [*words, *(word for setting in (*SETTINGS, f"judge={judge}") for word in ("--set", setting))]


def run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def data(preference_rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranked") / "ranked.jsonl"
    rows = []
    for number, row in enumerate(preference_rows):
        answers = [row["chosen"], row["rejected"], "No.", f"It is {number}."]
        ranked = [{"answer": answer, "rank": rank} for answer, rank in zip(answers, (1, 3, 4, 5))]
        rows.append({"prompt": row["prompt"], "answers": ranked})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def runs_of(storage: Path) -> dict[str, Any]:
    """MLflow's runs of trials, by name."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in found if "trial.digest" in run.data.tags}


def test_offline_and_online_objectives_stand_in_one_table_and_are_not_trained_twice(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    objectives = ("kto", "mc_po", "on_mc_po")
    with JudgeServer() as server:
        # Every seventh question cannot be judged: its prompt is dropped, and nothing else.
        def fault_of(request: Any) -> Fault:
            return Fault(text="No idea.") if "Add 7 " in request.shown("question") else Fault()

        server.fault_of = fault_of
        words = command(model_folder, data, tmp_path / "runs", server.spec(), objectives)
        first = run(words)
        assert first.returncode == 0, (first.stdout + first.stderr)[-3000:]
        asked = len(server.requests)
        second = run(words)
        assert second.returncode == 0 and len(server.requests) == asked > 0
    for objective in objectives:
        [line] = [line for line in first.stdout.splitlines() if line.startswith(f"│ {objective} ")]
        assert "→" in line and "missing" not in line
        assert line in second.stdout
    assert "0 finished already" in first.stdout and "to train" not in second.stdout
    trained = runs_of(tmp_path / "runs")
    assert len(trained) == 3
    online = next(run for name, run in trained.items() if name.startswith("on_mc_po"))
    assert online.data.metrics["online/prompts"] > 0 and "answers/win_rate" in online.data.metrics
    table = (tmp_path / "runs" / "reports" / "objectives.md").read_text()
    assert all(f"| {objective} |" in table for objective in objectives)


def test_a_judge_that_is_not_there_fails_the_online_trial_with_the_reason_and_no_other(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    with JudgeServer() as server:
        server.fault_of = lambda request: Fault(status=404, message="no such model")
        words = command(model_folder, data, tmp_path / "runs", server.spec(), ("on_mc_po", "dpo"))
        words = [word for word in words if word not in ("--judge", server.spec())]
        result = run(words)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    [line] = [line for line in result.stdout.splitlines() if line.startswith("│ on_mc_po ")]
    assert "missing" in line and "Traceback" not in result.stdout + result.stderr
    assert "1 trial without a result: InputError: the service does not know judge 'openai:scripted@" in result.stdout
    [line] = [line for line in result.stdout.splitlines() if line.startswith("│ dpo ")]
    assert "missing" not in line
