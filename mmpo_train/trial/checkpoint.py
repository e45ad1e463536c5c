"""A trial's folder, with a self-describing checkpoint for each epoch. States to resume from are in resume.py.

trials/<digest>/trial.json
trials/<digest>/checkpoints/epoch-0001/    weights (or adapter), tokenizer, trial.json: opens with from_pretrained
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.config import SFT, TRIAL, TrialConfig, from_dict, to_dict
from mmpo_train.data.rendering import Tokenizer
from mmpo_train.model.policy import save_model
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.storage.manifest import seal, stage
from mmpo_train.storage.mirror import publish
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.trial.places import AnyTrial

if TYPE_CHECKING:
    from mmpo_train.engines.engine import Engine


def checkpoint_folder(trial_folder: Path, epoch: int) -> Path:
    """Folder of the model at the end of an epoch."""
    return trial_folder / "checkpoints" / f"epoch-{epoch:04d}"


def write_trial(folder: Path, config: AnyTrial, **facts: Any) -> None:
    """Write `trial.json` (`sft.json` of instruction tuning): the config, its digest and further facts."""
    content = {"digest": config.digest, **facts, "config": to_dict(config)}
    write_whole(folder / (TRIAL if isinstance(config, TrialConfig) else SFT), json.dumps(content, indent=1) + "\n")


def read_trial(folder: Path) -> TrialConfig:
    """The config that a checkpoint folder was trained with."""
    return from_dict(json.loads((folder / TRIAL).read_text())["config"])


def read_reference_point(folder: Path) -> RunningMean:
    """The running mean of BCO and KTO at the time when the folder was written."""
    return RunningMean(*read_facts(folder).get("reference_point", ()))


def read_facts(folder: Path) -> dict[str, Any]:
    """The content that `write_trial` wrote."""
    described = folder / TRIAL if (folder / TRIAL).is_file() else folder / SFT
    return json.loads(described.read_text())


def save_policy(folder: Path, config: AnyTrial, model: Any, tokenizer: Tokenizer, engine: Engine, **facts: Any) -> None:
    """Write the present model as a self-describing folder. Every worker calls it; worker 0 writes."""
    weights = engine.model_state()
    if engine.worker == 0:
        half = stage(folder)
        save_model(model, tokenizer, half, weights)
        write_trial(half, config, **facts)
        seal(half, folder)
        publish(folder)
