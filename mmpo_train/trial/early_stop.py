"""A trial that asks at each epoch's end whether it may go on, and who answers: one file for each epoch.

The training loop ends itself: a trial that Ray Tune stops keeps its places on the cluster
(ray-project/ray#54305).
"""

from __future__ import annotations

from pathlib import Path

from mmpo_train.storage.mirror import fetch_file, publish_file
from mmpo_train.storage.whole_file import write_whole

GO_ON, STOP = "go on", "stop"


class Stopped(Exception):
    """Who watches the trial has ended it at an epoch's end. Its checkpoint is there: it may be resumed."""


def write_answer(trial_folder: Path, epoch: int, answer: str) -> str:
    """Answer for an epoch, unless that has been done before; returns the answer that stands."""
    stands = read_answer(trial_folder, epoch)
    if stands:
        return stands
    target = _file(trial_folder, epoch)
    write_whole(target, answer)
    publish_file(target)
    return answer


def read_answer(trial_folder: Path, epoch: int) -> str:
    """GO_ON, STOP, or nothing yet."""
    path = _file(trial_folder, epoch)
    fetch_file(path)
    return path.read_text() if path.is_file() else ""


def _file(trial_folder: Path, epoch: int) -> Path:
    return trial_folder / "answers" / f"epoch-{epoch:04d}"
