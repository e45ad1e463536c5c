"""A whole stage as a command in the background, looked at from outside, and begun again when a fault has ended it."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import psutil

from faults.engine import Case, Hung
from faults.machines import Machines
from sweeps.ledger.journal import FILE_NAME, read_entries

SECONDS = 900.0
"""A stage that needs longer hangs."""
REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = {
    "the command": "stage1_lr.py",
    "the trial's driver": "ray::ImplicitFunc",
    "a worker": "ray::RayTrainWorker",
    "the evaluator": "ray::ForkedReward",
    "raylet": "raylet/raylet",
    "GCS": "gcs_server",
    "a warm process": "sweeps.workers.warm",
}
"""Part of a stage -> what the title of its process has."""
WARM = ["-m", "sweeps.workers.warm"]


class Stage:
    """The command, its processes and its trials' progress."""

    def __init__(self, words: list[str], case: Case, steps: int, machines: Machines | None = None) -> None:
        """Starts it. Each trial has so many `steps`."""
        self.words, self.case, self.steps, self.machines = words, case, steps, machines
        self.environment = os.environ | {"COLUMNS": "200"} | (machines.environment if machines else {})
        self.tree: set[psutil.Process] = set()
        """All processes that it ever had."""
        self.reached: dict[Path, int] = {}
        """Trial -> its last step before the last fault, until all of them have passed it."""
        self.fault, self.fired = "", 0.0
        self.start()

    def start(self) -> None:
        """The same command, every time."""
        with open(self.case.log, "a") as log:
            self.said = log.tell()
            self.process = subprocess.Popen(
                self.words, cwd=REPOSITORY, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        self.may_end, self.tries = False, 0

    def words_said(self) -> str:
        """What it has said since its start."""
        return self.case.log.read_bytes()[self.said :].decode(errors="replace")

    def look(self) -> list[psutil.Process]:
        """All its processes; they are remembered."""
        for started in [self.process, *(self.machines.nodes.values() if self.machines else ())]:
            if started.poll() is None:
                parent = psutil.Process(started.pid)
                self.tree |= {parent, *parent.children(recursive=True)}
        # A warm process is nobody's child; its last argument is its raylet.
        pids = {str(one.pid) for one in self.tree}
        self.tree |= {one for one in psutil.process_iter() if (words := _words(one))[2:4] == WARM and words[-1] in pids}
        return [one for one in self.tree if _lives(one)]

    def of(self, part: str) -> list[psutil.Process]:
        """Its processes of a part."""
        return [one for one in self.look() if PARTS[part] in _title(one)]

    def heard(self) -> dict[Path, int]:
        """Trial -> its last step that the command has heard of."""
        journals = {path.parent: read_entries(path) for path in self.case.storage.glob(f"trials/*/{FILE_NAME}")}
        steps = {
            trial: [one["step"] for one in journal if "train/epoch" in one.get("metrics", {})]
            for trial, journal in journals.items()
        }
        return {trial: max(some) for trial, some in steps.items() if some}

    def hit(self, kind: str) -> None:
        """A fault has been proven; it counts, and the time until all its trials have gone on is taken."""
        self.reached = {trial: step for trial, step in self.heard().items() if step < self.steps}
        self.fault, self.fired, self.tries = kind, time.monotonic(), 0
        self.case.row(kind).fired += 1

    def goes_on(self, seconds: float, steps: int = 0) -> bool:
        """Whether it is still at work after so many seconds and further steps of all its trials.

        Where a fault has ended it, the same command is given again. Raises RuntimeError with its last words where it
        ends by itself, and Hung.
        """
        began, before = time.monotonic(), sum(self.heard().values())
        while time.monotonic() < began + seconds or sum(self.heard().values()) < before + steps:
            status = self.process.poll()
            self.look()
            if self.reached and self._is_recovered():
                self.case.row(self.fault).seconds.append(time.monotonic() - self.fired)
                self.reached = {}
            if status == 0:
                return False
            if status is not None:
                self.again(status)
            if time.monotonic() > began + max(seconds, SECONDS):
                self.kill()
                raise Hung(f"no {steps} steps in {SECONDS:.0f} s; last fault: {self.fault}")
            time.sleep(0.5)
        return True

    def again(self, status: int) -> None:
        """It has ended badly: the same command, and what it has said is to be done is done."""
        said = self.words_said()
        if "move it away (mv" in said:
            (self.case.storage / "mlflow.db").rename(self.case.storage / "mlflow.db.damaged")
        elif not self.may_end:
            raise RuntimeError(f"status {status} after {self.fault}: {said[-2000:]}")
        tries = self.tries + 1
        if tries > 3:
            raise RuntimeError(f"does not end well after {self.fault}: {said[-2000:]}")
        self.start()
        self.tries = tries

    def _is_recovered(self) -> bool:
        now = self.heard()
        return all(now.get(trial, 0) > step for trial, step in self.reached.items())

    def end(self, seconds: float = SECONDS) -> int:
        """Its exit status. Raises Hung and kills all of it."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Hung(f"the stage had not ended after {seconds:.0f} s; last fault: {self.fault}") from None

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        for one in self.look():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()

    def finish(self) -> None:
        """Return when it has ended well. Raises Hung, and RuntimeError."""
        if self.goes_on(SECONDS):
            self.end(0)

    def left_over(self) -> list[str]:
        """What of all its processes still runs after a minute: Ray's agents look now and then whether their raylet
        does."""
        until = time.monotonic() + 60
        while (left := self.look()) and time.monotonic() < until:
            time.sleep(0.5)
        return [_title(one) for one in left]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _title(process: psutil.Process) -> str:
    words = _words(process)
    if words[2:4] == WARM:
        return WARM[1]
    return words[1] if words[1:2] and words[1].endswith(".py") else "".join(words[:1])


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended, or is a zombie that nobody has asked after
        return []
