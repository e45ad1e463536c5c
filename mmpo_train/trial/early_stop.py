"""Early stopping: at the end of an epoch a trial asks whether to continue, and gets its answer as a file per epoch.

The training loop ends itself, because a trial that Ray Tune stops keeps its resources on the cluster
(ray-project/ray#54305).
"""

from __future__ import annotations

from pathlib import Path

from mmpo_train.storage.mirror import fetch_file, publish_file
from mmpo_train.storage.whole_file import write_whole

GO_ON, STOP = "go on", "stop"


class Stopped(Exception):
    """The trial was ended at the end of an epoch. Its checkpoint exists, so it can be resumed."""


def write_answer(trial_folder: Path, epoch: int, answer: str) -> str:
    """The answer for an epoch: this one, unless there is an earlier one."""
    stands = read_answer(trial_folder, epoch)
    if stands:
        return stands
    target = _file(trial_folder, epoch)
    write_whole(target, answer)
    publish_file(target)
    return answer


def read_answer(trial_folder: Path, epoch: int) -> str:
    """The answer for an epoch, GO_ON or STOP; empty if there is none yet."""
    path = _file(trial_folder, epoch)
    fetch_file(path)
    return path.read_text() if path.is_file() else ""


def _file(trial_folder: Path, epoch: int) -> Path:
    return trial_folder / "answers" / f"epoch-{epoch:04d}"
