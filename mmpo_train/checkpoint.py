"""A trial's folder: a self-describing checkpoint for each epoch, and what a resume needs.

trials/<digest>/trial.json
trials/<digest>/checkpoints/epoch-0001/    weights (or adapter), tokenizer, trial.json: opens with from_pretrained
trials/<digest>/resume/epoch-0001/         optimiser states; only the newest is kept
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.config import TrialConfig, from_dict, to_dict
from mmpo_train.events import Point
from mmpo_train.manifest import is_whole, seal, stage
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.policy import save_model
from mmpo_train.recipes import SFT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmpo_train.engine import Engine
    from mmpo_train.sft_trial import SFTTrial

TRIAL = "trial.json"
POINTS = "points.json"


def checkpoint_folder(trial_folder: Path, epoch: int) -> Path:
    """Where the model stands as it was at the end of an epoch."""
    return trial_folder / "checkpoints" / f"epoch-{epoch:04d}"


def write_trial(folder: Path, config: TrialConfig | SFTTrial, **facts: Any) -> None:
    """`trial.json`, of instruction tuning `sft.json`: the config, its digest and further facts about the folder."""
    content = {"digest": config.digest, **facts, "config": to_dict(config)}
    (folder / (TRIAL if isinstance(config, TrialConfig) else SFT)).write_text(json.dumps(content, indent=1) + "\n")


def read_trial(folder: Path) -> TrialConfig:
    """The config that a checkpoint folder was trained with."""
    return from_dict(json.loads((folder / TRIAL).read_text())["config"])


def read_reference_point(folder: Path) -> RunningMean:
    """The running quantity of BCO and KTO as it was when the folder was written."""
    return RunningMean(*_facts(folder).get("reference_point", ()))


def _facts(folder: Path) -> dict[str, Any]:
    described = folder / TRIAL if (folder / TRIAL).is_file() else folder / SFT
    facts: dict[str, Any] = json.loads(described.read_text())
    return facts


def save_epoch(
    trial_folder: Path,
    epoch: int,
    step: int,
    config: TrialConfig | SFTTrial,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
    history: list[Point],
    reference_point: RunningMean,
) -> Path:
    """Write the epoch's checkpoint, then what a resume needs: optimiser states, and all points measured so far.

    Every worker calls it. Returns the checkpoint's folder.
    """
    checkpoint = checkpoint_folder(trial_folder, epoch)
    resume = trial_folder / "resume" / checkpoint.name
    staging = resume.with_name(f".partial-{resume.name}")
    save_policy(checkpoint, config, model, tokenizer, engine, epoch=epoch, step=step, reference_point=reference_point)
    if engine.worker == 0:
        stage(resume)
    engine.barrier()
    engine.save_state(staging)
    engine.barrier()
    if engine.worker == 0:
        shards = {"workers": engine.workers, "zero_stage": config.zero_stage}
        write_trial(staging, config, epoch=epoch, step=step, reference_point=reference_point, **shards)
        (staging / POINTS).write_text(json.dumps(history))
        seal(staging, resume)
        for older in resume.parent.iterdir():
            if older != resume:
                shutil.rmtree(older)
    engine.barrier()
    return checkpoint


def save_policy(
    folder: Path,
    config: TrialConfig | SFTTrial,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
    **facts: Any,
) -> None:
    """Write the model as it is now as a self-describing folder. Every worker calls it; worker 0 writes."""
    weights = engine.model_state()
    if engine.worker == 0:
        half = stage(folder)
        save_model(model, tokenizer, half, weights)
        write_trial(half, config, **facts)
        seal(half, folder)


def resumable_epoch(trial_folder: Path, workers: int, zero_stage: int) -> int:
    """The newest epoch that can be resumed from by as many workers; 0 where there is none.

    A folder that is damaged, or written by another number of workers or at another ZeRO stage, is passed over.
    """
    for folder in sorted((trial_folder / "resume").glob("epoch-*"), reverse=True):
        if is_whole(folder):
            facts = _facts(folder)
            if (facts["workers"], facts["zero_stage"]) == (workers, zero_stage):
                return int(facts["epoch"])
    return 0


def load_epoch(trial_folder: Path, epoch: int, engine: Engine) -> tuple[list[Point], RunningMean]:
    """Put the engine where it was at the end of a resumable epoch. Returns the points until then and Delta."""
    folder = trial_folder / "resume" / f"epoch-{epoch:04d}"
    engine.load_state(folder)
    return [Point(*point) for point in json.loads((folder / POINTS).read_text())], read_reference_point(folder)
