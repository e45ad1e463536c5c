"""The state from which an interrupted trial continues, saved at and between ends of epochs. Only the newest is kept.

trials/<digest>/resume/step-00000123/    the optimiser's state (mmpo_train/engines/training_state.py), trial.json, and
                                         points.json: all points measured until then

Any number of workers can continue from it, with any engine and at any ZeRO stage. After the last epoch the optimiser's
state, 12 bytes per parameter, is left out.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.engines.engine import first_workers
from mmpo_train.events import Point
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.storage.manifest import is_whole, seal, stage
from mmpo_train.storage.mirror import fetch_children, publish, withdraw_others
from mmpo_train.trial.checkpoint import AnyTrial, read_facts, read_reference_point, write_trial

if TYPE_CHECKING:
    from mmpo_train.engines.engine import Engine

HISTORY = "points.json"
"""The file of all points measured until then."""


@dataclass(frozen=True)
class Progress:
    """The progress of a trial."""

    step: int = 0
    """Finished optimiser steps."""
    epochs: int = 0
    """Finished epochs."""
    reference_point: RunningMean = RunningMean()
    history: list[Point] = field(default_factory=list)
    """All points measured so far."""


def keep_state(trial_folder: Path, config: AnyTrial, engine: Engine, progress: Progress) -> None:
    """Write a state to resume from, and remove the older one. Every worker calls it."""
    target = _folder(trial_folder, progress.step)
    staging = target.with_name(f".partial-{target.name}")
    if engine.worker == 0:
        stage(target)
    engine.barrier()
    if progress.epochs < config.epochs:
        engine.save_state(staging)
    engine.barrier()
    if engine.worker == 0:
        facts = {"epoch": progress.epochs, "step": progress.step, "reference_point": progress.reference_point}
        write_trial(staging, config, **facts)
        (staging / HISTORY).write_text(json.dumps(progress.history))
        seal(staging, target)
        publish(target)
        withdraw_others(target)
        for older in target.parent.iterdir():
            if older != target:
                shutil.rmtree(older)
    engine.barrier()


def resume(trial_folder: Path, config: AnyTrial, engine: Engine) -> Progress:
    """The progress of the newest complete state before the end, which is loaded into the engine. Every worker calls
    it."""
    step = first_workers(engine, lambda: newest_step(trial_folder))
    if not step:
        return Progress()
    folder = _folder(trial_folder, step)
    history = [Point(*point) for point in json.loads((folder / HISTORY).read_text())]
    done = Progress(step, int(read_facts(folder)["epoch"]), read_reference_point(folder), history)
    if done.epochs < config.epochs:
        engine.load_state(folder)
    return done


def newest_step(trial_folder: Path) -> int:
    """The last step with a complete state; 0 if there is none. Damaged folders are skipped."""
    fetch_children(trial_folder / "resume")
    for folder in sorted((trial_folder / "resume").glob("step-*"), reverse=True):
        if is_whole(folder):
            return int(folder.name.removeprefix("step-"))
    return 0


def _folder(trial_folder: Path, step: int) -> Path:
    return trial_folder / "resume" / f"step-{step:08d}"
