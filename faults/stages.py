"""The ring of whole stages: Ray, DeepSpeed workers, evaluators and MLflow, from the command line to the winner."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from faults import files
from faults.engine import Case, Found, Hung, NotFired, within
from faults.inputs import STEPS_PER_EPOCH, command, write_inputs

EPOCHS, TRIALS = 12, 2
STEPS = STEPS_PER_EPOCH * EPOCHS
SECONDS = 900.0
REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = {
    "the trial's driver": "ray::ImplicitFunc",
    "a worker": "ray::RayTrainWorker",
    "the evaluator": "ray::WarmReward",
    "raylet": "raylet",
    "GCS": "gcs_server",
    "a warm process": "sweeps.workers.warm",
}
"""Part of a stage -> what the title of its process has."""
GOES_ON_ALONE = ("the trial's driver", "a worker", "the evaluator", "a warm process")
WARM = ["-m", "sweeps.workers.warm"]


class Stage:
    """The command of a stage, started in the background."""

    def __init__(self, words: list[str], case: Case) -> None:
        self.words, self.case = words, case
        self.start()

    def start(self) -> None:
        """The same command, every time."""
        with open(self.case.log, "a") as log:
            environment = os.environ | {"COLUMNS": "200"}
            self.process = subprocess.Popen(
                self.words, cwd=REPOSITORY, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.tree: set[psutil.Process] = set()

    def look(self) -> list[psutil.Process]:
        """All its processes; they are remembered."""
        with_parent = psutil.Process(self.process.pid)
        self.tree |= {with_parent, *with_parent.children(recursive=True)}
        # A warm process is nobody's child; its last argument is its raylet.
        pids = {str(one.pid) for one in self.tree}
        self.tree |= {one for one in psutil.process_iter() if (words := _words(one))[2:4] == WARM and words[-1] in pids}
        return [one for one in self.tree if one.is_running()]

    def to_midst(self) -> None:
        """Returns at a random moment between a first epoch and the end."""
        wanted = self.case.random.randrange(1, EPOCHS * TRIALS - 3)

        def is_there() -> bool:
            if self.process.poll() is not None:
                raise NotFired(f"ended before: {self.case.log.read_text()[-800:]}")
            self.look()
            return len(list(self.case.storage.glob("trials/*/checkpoints/epoch-*/manifest.json"))) >= wanted

        within(SECONDS, "no checkpoint", is_there, pause=0.1)
        time.sleep(self.case.random.uniform(0, 1))

    def end(self, seconds: float = SECONDS) -> int:
        """Its exit status. Raises Hung and kills all of it."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            for one in self.look():
                one.kill()
            raise Hung(f"the stage had not ended after {seconds:.0f} s") from None

    def finish(self) -> float:
        """Seconds until the same command has ended well. Raises RuntimeError with its last words."""
        began = time.monotonic()
        for _ in range(3):
            self.start()
            if self.end() == 0:
                return time.monotonic() - began
            words = self.case.log.read_text()[-3000:]
            if "move it away (mv" in words:
                (self.case.storage / "mlflow.db").rename(self.case.storage / "mlflow.db.damaged")
        raise RuntimeError(f"does not end well: {self.case.log.read_text()[-2000:]}")


class Stages:
    """Stage 1 with two learning rates, twelve epochs each."""

    name = "stages"

    def __init__(self, folder: Path) -> None:
        self.model, self.data = write_inputs(folder)
        signals: dict[str, tuple[int, ...]] = {
            "SIGKILL": (signal.SIGKILL,),
            "SIGTERM": (signal.SIGTERM,),
            "SIGINT": (signal.SIGINT,),
            "SIGINT twice": (signal.SIGINT, signal.SIGINT),
        }
        self.kinds: dict[str, Callable[[Case], float]] = {
            f"{name} to the command": partial(self._signalled, numbers=numbers) for name, numbers in signals.items()
        }
        self.kinds |= {f"SIGKILL to {part}": partial(self._part, part=part) for part in PARTS}
        self.kinds |= {
            f"SIGSTOP of {part}": partial(self._stopped, part=part) for part in ("a worker", "the evaluator")
        }
        self.kinds["SIGKILL to all at once"] = self._all
        self.kinds |= {
            f"{name}, after SIGKILL": partial(self._damaged, damage=damage) for name, damage in files.DAMAGES.items()
        }
        self.kinds["two stages at once"] = self._two

    def _begin(self, case: Case) -> Stage:
        words = [sys.executable, "sweeps/stage1_lr.py", *command(self.model, self.data, case.storage, EPOCHS)]
        return Stage([*words, "--learning-rates", "1e-3", "1e-4", "--workers-per-trial", "1"], case)

    def _signalled(self, case: Case, numbers: tuple[int, ...]) -> float:
        stage = self._begin(case)
        stage.to_midst()
        for number in numbers:
            stage.process.send_signal(number)
            time.sleep(case.random.uniform(0, 0.5))
        status = stage.end(120)
        if status not in {-signal.SIGKILL, *(128 + number for number in numbers)}:
            raise RuntimeError(f"status {status}: {case.log.read_text()[-2000:]}")
        if signal.SIGKILL not in numbers:
            _no_run_is_running(case)
        return stage.finish()

    def _victim(self, case: Case, part: str) -> tuple[Stage, psutil.Process]:
        """A stage in the midst of its work, and one of its processes of this part. Raises NotFired."""
        stage = self._begin(case)
        stage.to_midst()
        victims = [one for one in stage.look() if PARTS[part] in _title(one)]
        if not victims:
            raise NotFired(f"no process of {part}")
        return stage, case.random.choice(victims)

    def _part(self, case: Case, part: str) -> float:
        stage, victim = self._victim(case, part)
        victim.kill()
        began = time.monotonic()
        if stage.end() == 0:
            return time.monotonic() - began
        if part in GOES_ON_ALONE:
            raise RuntimeError(f"did not go on alone: {case.log.read_text()[-2000:]}")
        _no_run_is_running(case)
        return stage.finish()

    def _stopped(self, case: Case, part: str) -> float:
        stage, victim = self._victim(case, part)
        victim.suspend()
        time.sleep(case.random.uniform(1, 20))
        victim.resume()
        began = time.monotonic()
        if stage.end():
            raise RuntimeError(f"did not go on alone: {case.log.read_text()[-2000:]}")
        return time.monotonic() - began

    def _all(self, case: Case) -> float:
        stage = self._begin(case)
        stage.to_midst()
        for one in stage.look():
            one.kill()
        stage.end()
        return stage.finish()

    def _damaged(self, case: Case, damage: files.Damage) -> float:
        stage = self._begin(case)
        stage.to_midst()
        for one in stage.look():
            one.kill()
        stage.end()
        path = files.drawn(case, but="lock$")
        damage(path, case)
        return stage.finish()

    def _two(self, case: Case) -> float:
        first = self._begin(case)
        first.to_midst()
        second = self._begin(case)
        began = time.monotonic()
        statuses = {first.end(), second.end()}
        if not statuses <= {0, 2}:
            raise RuntimeError(f"{statuses}: {case.log.read_text()[-2000:]}")
        return time.monotonic() - began

    def compare(self, case: Case) -> Found:
        """One finished run for each trial and one for the stage; every step of every metric once; one evaluation of
        each epoch; whole checkpoints; no process left; and one more run trains nothing."""
        from mmpo_train.storage.manifest import is_whole

        found = _differences(case)
        checkpoints = sorted(case.storage.glob("trials/*/checkpoints/epoch-*"))
        if len(checkpoints) != TRIALS * EPOCHS or not all(is_whole(one) for one in checkpoints):
            found.lost.append(f"checkpoints: {len(checkpoints)}")
        before = {one: (one / "manifest.json").stat().st_mtime_ns for one in checkpoints}
        stage = self._begin(case)
        if stage.end():
            raise RuntimeError(case.log.read_text()[-2000:])
        if "nothing to train" not in case.log.read_text()[-4000:]:
            found.doubled.append("one more run trained")
        if before != {one: (one / "manifest.json").stat().st_mtime_ns for one in checkpoints}:
            found.doubled.append("one more run wrote checkpoints")
        again = _differences(case)
        return Found(found.lost + again.lost, found.doubled + again.doubled)


def _differences(case: Case) -> Found:
    from mlflow import MlflowClient

    found, client = Found(), MlflowClient(f"sqlite:///{case.storage}/mlflow.db")
    experiments = [one for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs([one.experiment_id for one in experiments])
    trials = [run for run in runs if "trial.digest" in run.data.tags and "duplicate_of" not in run.data.tags]
    if len({run.data.tags["trial.digest"] for run in trials}) != TRIALS or len(runs) < TRIALS + 1:
        found.lost.append(f"runs: {len(runs)}, trials {len(trials)}")
    if len(runs) > TRIALS + 1:
        found.doubled.append(f"runs: {len(runs)}")
    if {run.info.status for run in runs} != {"FINISHED"}:
        found.lost.append(f"states {[run.info.status for run in runs]}")
    for run in trials:
        for name in run.data.metrics:
            steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
            if set(steps.values()) != {1}:
                found.doubled.append(f"{name} of {run.info.run_name}")
            wanted = STEPS if name.startswith("train/") else EPOCHS if name.startswith("validation/") else len(steps)
            if set(steps) != set(range(1, wanted + 1)) and name.startswith(("train/", "validation/")):
                found.lost.append(f"{name} of {run.info.run_name}: {len(steps)} of {wanted} steps")
        judged = [item.path for item in client.list_artifacts(run.info.run_id, "validation")]
        if judged != [f"validation/epoch-{epoch:04d}.json" for epoch in range(1, EPOCHS + 1)]:
            found.lost.append(f"evaluations of {run.info.run_name}: {len(judged)}")
    return found


def _no_run_is_running(case: Case) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{case.storage}/mlflow.db")
    runs: list[Any] = list(client.search_runs([one.experiment_id for one in client.search_experiments()]))
    if open_ones := [run.info.run_name for run in runs if run.info.status == "RUNNING"]:
        raise RuntimeError(f"{json.dumps(open_ones)} say that they are running; {case.log.read_text()[-1500:]}")


def _title(process: psutil.Process) -> str:
    words = _words(process)
    return WARM[1] if words[2:4] == WARM else "".join(words[:1])


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended, or is a zombie that nobody has asked after
        return []
