"""A running trial is stopped and cloned by tags in MLflow: real Ray, DeepSpeed workers and MLflow."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.support.workers import REPOSITORY

STEPS = 30 * 6
"""Of the 40 pairs 36 are trained on, six a step."""
SETTINGS = ("pairs_per_step=6", "epochs=30", "max_prompt_tokens=64", "max_completion_tokens=32")


@pytest.mark.slow
def test_a_trial_on_ray_is_cloned_and_stopped_within_seconds_and_goes_on(model_folder, preference_rows, tmp_path):
    data, storage = tmp_path / "pairs.jsonl", tmp_path / "runs"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = [sys.executable, "sweeps/stage1_lr.py", "--model", str(model_folder), "--dataset", str(data)]
    words += ["--storage", str(storage), "--learning-rates", "1e-3", "--workers-per-trial", "1"]
    words += [word for one in SETTINGS for word in ("--set", one)]
    opened: list[MlflowClient] = []

    def runs() -> dict[str, Any]:
        [client] = opened
        ids = [one.experiment_id for one in client.search_experiments()]
        return {run.info.run_name: run for run in client.search_runs(ids, "tags.`ledger.kind` = 'trial'")}

    def losses(run: Any) -> dict[int, float]:
        return {point.step: point.value for point in opened[0].get_metric_history(run.info.run_id, "train/loss")}

    def wait_for(happened: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 300
        while not (found := happened()):
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()[-5000:]
            time.sleep(0.1)
        return found

    def asked(name: str, text: str) -> float:
        """Seconds until it was done."""
        run_id, started = runs()[name].info.run_id, time.monotonic()
        opened[0].set_tag(run_id, "do", text)
        wait_for(lambda: "do" not in runs()[name].data.tags)
        assert "refused" not in runs()[name].data.tags, runs()[name].data.tags
        return time.monotonic() - started

    output = tmp_path / "output.txt"
    with output.open("w") as log:
        about: dict[str, Any] = {"cwd": REPOSITORY, "stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(words, env=os.environ | {"COLUMNS": "200"}, **about)
        wait_for(lambda: ": training (step" in output.read_text())
        opened.append(MlflowClient(f"sqlite:///{storage}/mlflow.db"))
        wait_for(lambda: "lr=1e-3" in runs() and runs()["lr=1e-3"].data.metrics.get("train/epoch", 0) > 1)
        seconds = asked("lr=1e-3", "clone learning_rate=3e-4"), asked("lr=1e-3", "stop")
        print(f"cloned after {seconds[0]:.1f} s, stopped after {seconds[1]:.1f} s")
        assert max(seconds) < 30, "10 s on a machine that does nothing else"
        asked("lr=1e-3", "go")
        assert process.wait(600) == 0, output.read_text()[-5000:]
    assert "clones: not points of the grid" in output.read_text()
    found = runs()
    parent = found.pop("lr=1e-3")
    [clone] = found.values()
    assert parent.info.status == clone.info.status == "FINISHED"
    step = int(clone.data.tags["cloned.step"])
    theirs, ours = losses(parent), losses(clone)
    assert sorted(theirs) == sorted(ours) == list(range(1, STEPS + 1))
    assert {at: ours[at] for at in range(1, step + 2)} == {at: theirs[at] for at in range(1, step + 2)}
    assert ours[STEPS] != theirs[STEPS]
