"""The whole search as a user types it: real Ray, DeepSpeed workers, evaluation actor and MLflow, on a random model."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.workers import REPOSITORY

SETTINGS = ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32", "validate_every_steps=4")
COMMANDS = {
    "stage1_lr": ("--learning-rates", "1e-3", "3e-3"),
    "stage2_beta": ("--betas", "0.05", "0.1"),
    "stage3_margin": ("--margins", "0.2", "0.6"),
    "final_runs": ("--betas", "0.05", "--set", "epochs=3"),
    "ablations": ("--set", "epochs=3"),
}


class Search:
    """A storage and the commands in it."""

    def __init__(self, model: Path, data: Path, storage: Path):
        self.words = ["--model", str(model), "--dataset", str(data), "--storage", str(storage)]
        self.words += [word for setting in SETTINGS for word in ("--set", setting)]
        self.storage = storage

    def run(self, script: str) -> str:
        """The words that the command printed, on a terminal of 200 columns that is none."""
        words = [sys.executable, f"sweeps/{script}.py", *COMMANDS[script], *self.words]
        environment = os.environ | {"COLUMNS": "200"}
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return " ".join(done.stdout.split())

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.storage}/mlflow.db")

    def runs(self) -> list[Any]:
        """All of MLflow's runs."""
        client = self.client()
        [experiment] = [found for found in client.search_experiments() if found.name != "Default"]
        return client.search_runs([experiment.experiment_id])


def trained(printed: str) -> int:
    return len(re.findall(r": starting: ", printed))


@pytest.mark.slow
def test_the_search_trains_each_trial_once_and_obeys_a_person(
    model_folder: Path, preference_rows: list[dict], tmp_path: Path
) -> None:
    """Stage 1 trains two rates; a person chooses the one the rule did not; stage 2 takes its beta = 0.1 from there,
    stage 3 its r_eps = 0.6 from stage 2's winner, the ablations their full run from the final runs. These have three
    epochs: with two they would be a point of stage 3."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    search = Search(model_folder, data, tmp_path / "runs")
    assert trained(search.run("stage1_lr")) == 2
    rates = {run.info.run_name: run for run in search.runs() if "trial.digest" in run.data.tags}
    [other] = [run for run in rates.values() if run.data.tags.get("winner") != "auto"]
    search.client().set_tag(other.info.run_id, "winner", "person")
    counts = {}
    for script in ("stage2_beta", "stage3_margin", "final_runs", "ablations"):
        printed = search.run(script)
        counts[script] = trained(printed)
        assert f"chosen by a person in run {other.info.run_name} ({other.info.run_id})" in printed
        if script in ("stage2_beta", "stage3_margin"):
            assert "taken from stage" in printed
    assert "taken from final_runs" in printed and "reward accuracy, variant by epoch" in printed
    assert counts == {"stage2_beta": 0, "stage3_margin": 0, "final_runs": 1, "ablations": 3}, "the others are scored"
    before = search.runs()
    trials = [run for run in before if "trial.digest" in run.data.tags]
    assert len(trials) == len({run.data.tags["trial.digest"] for run in trials}) == 2 + 1 + 1 + 1 + 4
    assert sum("shares.trial" in run.data.tags for run in trials) == 1 + 1 + 0 + 1
    assert {run.data.params["learning_rate"] for run in trials if run.data.tags["stage.name"] != "stage1_lr"} == {
        other.data.params["learning_rate"]
    }
    assert all(run.info.status == "FINISHED" for run in before)

    for script in COMMANDS:
        assert trained(search.run(script)) == 0
    after, client = search.runs(), search.client()
    assert {run.info.run_id for run in after} == {run.info.run_id for run in before}
    for run in after:
        for name in run.data.metrics:
            steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
            assert set(steps.values()) == {1}, (run.info.run_name, name)
