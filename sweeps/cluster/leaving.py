"""The end before the work is done: when the command is told to go, or Ray says that a node will be taken away."""

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from mmpo_train.terminal import ended_by

GOES_ON = "the same command goes on from the last state written"
INTERRUPTED = f"interrupted: {GOES_ON}"
_FILE = "leave"
"""In a trial's folder: its workers write a state and end."""
_SECONDS_TO_LEAVE = 15.0
"""Slurm and Kubernetes kill 30 s after SIGTERM."""


class Leaving:
    """What the driver does when a signal has told it to go."""

    def __init__(self, told: Callable[[], int], trial_folders: Callable[[], Iterable[Path]]) -> None:
        self.told, self.folders = told, trial_folders
        self.end_of_patience = 0.0
        self.take_back()

    def check(self, at_steps: Collection[str]) -> None:
        """Tell the workers of the trials `at_steps` to go: the others have nothing to write. Raises Interrupted when
        they have gone, or need too long."""
        if not (number := self.told()):
            return
        if not self.end_of_patience:
            self.end_of_patience = time.monotonic() + _SECONDS_TO_LEAVE
        for folder in self.folders():
            if folder.name in at_steps and not is_leaving(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / _FILE).touch()
        if not at_steps or time.monotonic() > self.end_of_patience:
            raise ended_by(number)

    def take_back(self) -> None:
        """Let the trials' workers stay: those of the next command."""
        for folder in self.folders():
            (folder / _FILE).unlink(missing_ok=True)


def is_leaving(trial_folder: Path) -> bool:
    """Whether the driver has told the trial's workers to go."""
    return (trial_folder / _FILE).exists()
