"""Later stages killed in the middle of a trial, as a whole and in parts: real Ray, DeepSpeed workers and MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeps.ledger.journal import FILE_NAME, read_entries
from tests.support.workers import REPOSITORY

EPOCHS = 30
SETTINGS = ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32", "validate_every_steps=4")
STEPS = 6 * EPOCHS
"""36 pairs of the forty are trained on, six a step."""
STAGES = {
    "stage2_beta": (("--learning-rate", "1e-3", "--betas", "0.05", "0.1"), 2),
    "stage3_margin": (("--learning-rate", "1e-3", "--beta", "0.1", "--margins", "0.6"), 1),
    "final_runs": (("--learning-rate", "1e-3", "--r-eps", "0.6", "--betas", "0.05"), 1),
    "ablations": (("--learning-rate", "1e-3", "--r-eps", "0.6"), 5),
}
"""Script -> what it is told, and how many trials it has."""
EVALUATOR, WORKER = "ray::ForkedReward", "ray::RayTrainWorker"


class Stage:
    """A stage's command on the random model in a storage of its own, started in the background."""

    def __init__(self, script: str, model: Path, rows: list[dict], folder: Path):
        self.storage, data = folder / "runs", folder / "pairs.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        told, self.trials = STAGES[script]
        self.words = [sys.executable, f"sweeps/{script}.py", *told, "--model", str(model), "--dataset", str(data)]
        self.words += ["--storage", str(self.storage), "--workers-per-trial", "1"]
        self.words += [word for setting in (*SETTINGS, f"epochs={EPOCHS}") for word in ("--set", setting)]
        self.log = (folder / "output.txt").open("a+")
        self.start()

    def start(self) -> None:
        """The same command, every time."""
        environment = os.environ | {"COLUMNS": "200"}
        self.process = subprocess.Popen(
            self.words, cwd=REPOSITORY, stdout=self.log, stderr=subprocess.STDOUT, env=environment
        )

    def wait_for(self, happened: Callable[[], Any]) -> Any:
        """What `happened` gives as soon as that is true, while the command runs."""
        deadline = time.monotonic() + 600
        while not (found := happened()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.output()
            time.sleep(0.05)
        return found

    def finish(self) -> None:
        """Returns when the command has ended well."""
        assert self.process.wait(1200) == 0, self.output()

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()[-5000:]

    def processes(self, title: str) -> list[psutil.Process]:
        """Of the command's Ray, those whose title begins so."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in below if _title(one).startswith(title)]

    def reached(self) -> dict[str, float]:
        """Digest -> epochs that the trial has behind it, as its journal has heard, of trials that are under way."""
        found = {}
        for path in self.storage.glob(f"trials/*/{FILE_NAME}"):
            entries = read_entries(path)
            heard = [one["metrics"]["train/epoch"] for one in entries if "train/epoch" in one.get("metrics", {})]
            if heard and not any(one["kind"] == "end" for one in entries):
                found[path.parent.name] = max(heard)
        return found

    def in_mid_trial(self) -> bool:
        """Whether a trial has an epoch and a bit behind it, so that its first checkpoint is one to resume from."""
        return any(1 < epochs < EPOCHS - 1 for epochs in self.reached().values())

    def checkpoints(self) -> dict[tuple[str, int], int]:
        """(Digest, epoch) -> when the checkpoint was written, of epochs that a trial under way has left behind."""
        behind = {digest: range(1, int(epochs - 1e-9) + 1) for digest, epochs in self.reached().items()}
        folder = self.storage / "trials"
        manifests = {
            (digest, epoch): folder / digest / "checkpoints" / f"epoch-{epoch:04d}" / "manifest.json"
            for digest, epochs in behind.items()
            for epoch in epochs
        }
        return {key: path.stat().st_mtime_ns for key, path in manifests.items()}

    def written(self, checkpoints: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """When these checkpoints were written, as it stands now."""
        folder = self.storage / "trials"
        return {
            (digest, epoch): (folder / digest / f"checkpoints/epoch-{epoch:04d}/manifest.json").stat().st_mtime_ns
            for digest, epoch in checkpoints
        }

    def check_ledger(self) -> None:
        """One run for the stage and for each trial, finished; every step of every metric once; no result missing."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.storage}/mlflow.db")
        (experiment,) = [found for found in client.search_experiments() if found.name != "Default"]
        runs = client.search_runs([experiment.experiment_id])
        trials = [run for run in runs if "trial.digest" in run.data.tags]
        assert len({run.data.tags["trial.digest"] for run in trials}) == len(trials) == self.trials
        assert len(runs) == 1 + self.trials and {run.info.status for run in runs} == {"FINISHED"}
        for run in trials:
            for name in run.data.metrics:
                steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
                assert set(steps.values()) == {1}, (run.info.run_name, name)
                if name.startswith("train/"):
                    assert set(steps) == set(range(1, STEPS + 1)), (run.info.run_name, name)
                if name.startswith("validation/"):
                    assert set(steps) == set(range(1, EPOCHS + 1)), (run.info.run_name, name)
            assert {"validation/reward_accuracy", "validation/policy_accuracy"} <= set(run.data.metrics)
            judged = [item.path for item in client.list_artifacts(run.info.run_id, "validation")]
            assert judged == [f"validation/epoch-{epoch:04d}.json" for epoch in range(1, EPOCHS + 1)]


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:  # it has ended, or is a zombie that nobody has asked after
        return ""


@pytest.fixture
def start(model_folder, preference_rows, tmp_path):
    """Starts a stage; what is left of it at the end of the test is killed."""
    started: list[Stage] = []

    def begin(script: str) -> Stage:
        started.append(Stage(script, model_folder, preference_rows, tmp_path))
        return started[0]

    yield begin
    for stage in started:
        if stage.process.poll() is None:
            for process in [*stage.processes(""), stage.process]:
                process.kill()
            stage.process.wait()
        stage.log.close()


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("script", STAGES)
def test_a_stage_whose_driver_is_killed_goes_on_and_trains_no_epoch_twice(script: str, start) -> None:
    """SIGKILL to the driver alone: its Ray notices by itself that it is gone. Then, at once, the same command."""
    stage = start(script)
    stage.wait_for(stage.in_mid_trial)
    orphans = stage.processes("")
    stage.process.send_signal(signal.SIGKILL)
    stage.process.wait()
    before = stage.checkpoints()
    stage.start()
    stage.finish()
    assert before and stage.written(before) == before
    stage.check_ledger()
    deadline = time.monotonic() + 60  # Ray's agents look now and then whether their raylet is still there
    while left := [title for one in orphans if one.is_running() and (title := _title(one))]:
        assert time.monotonic() < deadline, left
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("title", [EVALUATOR, WORKER])
def test_a_stage_goes_on_when_a_part_of_it_dies(title: str, start) -> None:
    """SIGKILL to the evaluator, or to a trial's worker, in the middle of a trial of stage 2; nobody helps."""
    stage = start("stage2_beta")
    stage.wait_for(stage.in_mid_trial)
    before = stage.checkpoints()
    victim = stage.processes(title)[0]
    victim.kill()
    stage.wait_for(lambda: [one for one in stage.processes(title) if one.pid != victim.pid])
    stage.finish()
    assert before and stage.written(before) == before
    stage.check_ledger()


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_stage_that_is_told_to_end_writes_a_state_and_leaves_no_trial_running(number: int, said: str, start) -> None:
    """Once to the driver; the states are those of the steps that its trials had reached. Then the same command."""
    from mlflow import MlflowClient

    stage = start("stage2_beta")
    stage.wait_for(stage.in_mid_trial)
    stage.process.send_signal(number)
    # Slurm and Kubernetes wait for 30 s.
    assert stage.process.wait(30) == 128 + number, stage.output()
    output = stage.output()
    assert f"{said}; rerun the same command to continue from the last saved states" in output
    assert "***" not in output and "Traceback" not in output
    client = MlflowClient(f"sqlite:///{stage.storage}/mlflow.db")
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert runs and all(run.info.status != "RUNNING" for run in runs)
    journals = {path.parent: read_entries(path) for path in stage.storage.glob(f"trials/*/{FILE_NAME}")}
    heard = {
        folder: max([one["step"] for one in journal if one["kind"] == "point"], default=0)
        for folder, journal in journals.items()
    }
    left = [
        folder
        for folder, journal in journals.items()
        if journal[-1]["kind"] == "delivered" and 0 < heard[folder] < STEPS
    ]
    assert left and all((folder / "resume" / f"step-{heard[folder]:08d}").is_dir() for folder in left)
    stage.start()
    stage.finish()
    stage.check_ledger()
