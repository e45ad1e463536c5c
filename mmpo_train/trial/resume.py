"""The state from which an interrupted trial continues, saved at and between ends of epochs. Only the newest is kept.

trials/<digest>/resume/step-00000123/    the optimiser's state (mmpo_train/engines/training_state.py), trial.json, and
                                         points.json: all points measured until then
trials/<digest>/copies/step-00000123/    such a folder `resume` for clones of the trial, which is kept

Any number of workers can continue from it, with any engine and at any ZeRO stage. After the last epoch the optimiser's
state, 12 bytes per parameter, is left out. A trial does not continue from a state if the checkpoint of an epoch before
it has been damaged and is still needed: it goes back, and makes the checkpoint again.
"""

import dataclasses
import json
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mmpo_train.engines.engine import Engine, first_workers
from mmpo_train.errors import InputError
from mmpo_train.events import Point
from mmpo_train.metric_names import EPOCH
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.storage.manifest import is_whole, seal, stage
from mmpo_train.storage.mirror import fetch, fetch_children, publish, withdraw, withdraw_others
from mmpo_train.trial.checkpoint import checkpoint_folder, read_facts, read_reference_point, write_trial
from mmpo_train.trial.places import AnyTrial

HISTORY = "points.json"
"""The file of all points measured until then."""
FORMAT = 1
"""The states' format. Raise it when a new version cannot continue from the states of an older one."""


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
    inherited: int = 0
    """Of the finished epochs those of the trial from which this one was cloned: their checkpoints are not here."""


def copy_folder(trial_folder: Path, step: int) -> Path:
    """Folder of the state that clones of a trial start from; it is kept in the same form as the trial's own."""
    return trial_folder / "copies" / f"step-{step:08d}"


def origin_of(trial_folder: Path, config: AnyTrial) -> Path | None:
    """Folder of the state that a clone starts from; None for any other trial."""
    digest, _, step = getattr(config, "cloned_from", "").partition("@")
    return copy_folder(trial_folder.parent / digest, int(step)) if digest else None


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
        facts |= {"inherited": progress.inherited} if progress.inherited else {}
        write_trial(staging, config, format=FORMAT, **facts)
        (staging / HISTORY).write_text(json.dumps(progress.history))
        seal(staging, target)
        publish(target)
        _keep_alone(target)
    engine.barrier()


def resume(trial_folder: Path, config: AnyTrial, engine: Engine, judged: Collection[int] = ()) -> Progress:
    """The progress of the newest state to continue from, which is loaded into the engine. Every worker calls it.

    A clone that has none yet continues from that of its origin. The checkpoints of `judged` epochs are not needed any
    more. Raises InputError as `check_states` does, and if the origin's state is missing.
    """
    step = first_workers(engine, lambda: newest_step(trial_folder, config, judged))
    origin = None if step else origin_of(trial_folder, config)
    if origin is not None:
        step = first_workers(engine, lambda: newest_step(origin, config, range(1, config.epochs + 1)))
        if not step:
            raise InputError(f"the state from which this clone starts is missing or damaged: {origin}; clone anew")
    if not step:
        return Progress()
    state = _folder(origin or trial_folder, step)
    done = _progress(state)
    if done.epochs < config.epochs:
        engine.load_state(state)
    if origin is None and engine.worker == 0:
        _keep_alone(state)  # the one before it is left where a kill came between its sealing and the other's removal
    return done if origin is None else dataclasses.replace(done, inherited=done.epochs)


def newest_step(trial_folder: Path, config: AnyTrial, judged: Collection[int] = ()) -> int:
    """The last step with a complete state behind which no checkpoint is lost; 0 if there is none. The checkpoint of the
    epoch that ends with the state may be lost: the state has its weights."""
    fetch_children(trial_folder / "resume")
    check_states([trial_folder])
    for folder in sorted((trial_folder / "resume").glob("step-*"), reverse=True):
        if is_whole(folder):
            done = _progress(folder)
            can_be_written = done.epochs < config.epochs and done.history[-1].metrics[EPOCH] == done.epochs
            needed = done.epochs - 1 if can_be_written else done.epochs
            epochs = [epoch for epoch in range(done.inherited + 1, needed + 1) if epoch not in judged]
            if not any(is_lost(trial_folder, epoch) for epoch in epochs):
                return done.step
    return 0


def is_lost(trial_folder: Path, epoch: int) -> bool:
    """Whether the checkpoint of an epoch is missing or damaged, here and in the object store."""
    folder = checkpoint_folder(trial_folder, epoch)
    fetch(folder)
    return not is_whole(folder)


def forget_states(trial_folder: Path, step: int) -> None:
    """Remove the states of this step and of later ones, so that the trial goes back to before it."""
    for folder in (trial_folder / "resume").glob("step-*"):
        if int(folder.name.removeprefix("step-")) >= step:
            withdraw(folder)
            shutil.rmtree(folder)


def check_states(trial_folders: Iterable[Path]) -> None:
    """Raises InputError for trials that another version of this program has interrupted: begun again in silence, they
    would write over its checkpoints."""
    strange = [
        folder
        for trial in trial_folders
        for folder in sorted((trial / "resume").glob("[!.]*"))
        if not folder.name.startswith("step-") or (is_whole(folder) and read_facts(folder).get("format", 1) != FORMAT)
    ]
    if strange:
        folders = ", ".join(str(folder.parent.parent) for folder in strange)
        raise InputError(
            f"another version of this program has written {', '.join(map(str, strange))}, from which this one cannot "
            f"continue: finish these trials with that version, or move {folders} away to train them anew"
        )


def _keep_alone(state: Path) -> None:
    withdraw_others(state)
    for other in state.parent.iterdir():
        if other != state:
            shutil.rmtree(other)


def _progress(folder: Path) -> Progress:
    history = [Point(*point) for point in json.loads((folder / HISTORY).read_text())]
    facts = read_facts(folder)
    reference_point, inherited = read_reference_point(folder), int(facts.get("inherited", 0))
    return Progress(int(facts["step"]), int(facts["epoch"]), reference_point, history, inherited)


def _folder(trial_folder: Path, step: int) -> Path:
    return trial_folder / "resume" / f"step-{step:08d}"
