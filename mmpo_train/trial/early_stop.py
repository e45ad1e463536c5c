"""Early stopping: at the end of an epoch a trial asks whether to continue, and gets its answer as a file per epoch.

The training loop ends itself, because a trial that Ray Tune stops keeps its resources on the cluster
(ray-project/ray#54305).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.storage.mirror import fetch_file, publish_file
from mmpo_train.storage.whole_file import write_whole

if TYPE_CHECKING:
    from mmpo_train.engines.engine import Engine

GO_ON, STOP = "go on", "stop"
_SECONDS_BETWEEN_LOOKS = 0.5


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
    answer = path.read_bytes() if path.is_file() else b""
    if answer in (GO_ON.encode(), STOP.encode()):
        return answer.decode()
    path.unlink(missing_ok=True)  # a damaged one is brought or given again
    return ""


def _file(trial_folder: Path, epoch: int) -> Path:
    return trial_folder / "answers" / f"epoch-{epoch:04d}"


def wait_for_leave(engine: Engine, folder: Path, epoch: int) -> None:
    """Return when the trial may continue after an epoch. Raises Stopped, on all workers, if it may not."""
    from mmpo_train.engines.engine import first_workers  # imports torch

    answers = {"": 0, GO_ON: 1, STOP: 2}
    while not (answer := first_workers(engine, lambda: answers[read_answer(folder, epoch)])):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if answer == answers[STOP]:
        raise Stopped(f"stopped early, after epoch {epoch}")
