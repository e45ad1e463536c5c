"""Stage 0 as a user runs it: real Ray, DeepSpeed and MLflow, on a small random model; killed, and run again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mmpo_train.errors import InputError
from mmpo_train.recipes import find_recipe
from sweeps.plan.options import SFTOptions
from sweeps.search.instruction_tuning import trial_of
from sweeps.stage0_sft import main
from tests.support.workers import REPOSITORY


@pytest.fixture
def chats(preference_rows: list[dict], tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": row["prompt"], "completion": row["chosen"]}) + "\n" for row in preference_rows)
    )
    return path


def test_options_are_the_recipe_with_what_the_user_changes() -> None:
    given = ("learning_rate=1e-4", "max_tokens=100")
    trial = trial_of(SFTOptions(model="folder", recipe="smollm2-360m", seed=7, set=given), "bf16")
    assert (trial.learning_rate, trial.max_tokens, trial.epochs, trial.seed) == (1e-4, 100, 2, 7)
    assert (trial.recipe, trial.precision) == ("smollm2-360m", "bf16")
    assert trial.dataset == ("HuggingFaceTB/smol-smoltalk:train:test",)


@pytest.mark.parametrize("name", ["model", "recipe", "dataset", "seed"])
def test_what_has_an_option_of_its_own_is_no_setting(name: str) -> None:
    with pytest.raises(InputError, match=f"use --{name} instead of"):
        trial_of(SFTOptions(set=(f"{name}=x",)), "fp32")


def test_a_dry_run_counts_and_starts_nothing(model_folder, chats, tmp_path, capsys) -> None:
    main(["--model", str(model_folder), "--dataset", str(chats), "--storage", str(tmp_path / "runs"), "--dry-run"])
    printed = capsys.readouterr().out
    assert "train 38, validation 2 (2 held out)" in printed and "nothing was started" in printed
    assert "forecast: 1 step," in printed and "tokens counted" in printed
    assert not (tmp_path / "runs" / "mlflow.db").exists() and not (tmp_path / "runs" / "tokens").exists()


@pytest.mark.slow
def test_a_killed_stage_0_goes_on_and_a_finished_one_is_found_again(model_folder, chats, tmp_path) -> None:
    """SIGKILL to the driver and all of Ray after the first epochs; the same command; and once more."""
    from mlflow import MlflowClient

    storage = tmp_path / "runs"
    words = [sys.executable, "sweeps/stage0_sft.py", "--model", str(model_folder), "--recipe", "llama-3-8b"]
    words += ["--dataset", str(chats), "--storage", str(storage)]
    for setting in ("epochs=40", "conversations_per_step=8", "max_tokens=64", "learning_rate=1e-3"):
        words += ["--set", setting]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(storage.glob("trials/*/resume/step-*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(5)  # Ray's processes notice that their driver is gone

    def run(*more: str) -> str:
        done = subprocess.run(
            [*words, *more], cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    printed = run()
    assert "cost: " in printed
    (folder,) = storage.glob("models/*-sft-*")
    assert re.search(rf"stage1(_lr)? --model {folder} --storage {storage}", printed)
    assert find_recipe(str(folder)).name == "llama-3-8b" and (folder / "model.safetensors").is_file()
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and "mlflow.parentRunId" not in found.data.tags
    assert found.data.tags["recipe"] == found.data.params["recipe"] == "llama-3-8b"
    steps = Counter(point.step for point in client.get_metric_history(found.info.run_id, "train/loss"))
    assert steps == Counter(range(1, 201))
    epochs = client.get_metric_history(found.info.run_id, "validation/loss")
    assert sorted(point.step for point in epochs) == list(range(1, 41))
    started = time.monotonic()
    again = run()
    assert "epoch 40" not in again and time.monotonic() - started < 60
    assert "finished already: nothing to tune" in run("--dry-run")
    assert len(client.search_runs([experiment.experiment_id])) == 1
