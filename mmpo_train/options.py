"""The command-line options that every program here has in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mmpo_train.config import TrialConfig, parse_assignments, replace
from mmpo_train.errors import InputError
from mmpo_train.recipes import find_recipe, objective_settings, recipe_for
from mmpo_train.storage.mirror import place_of

Repeated = tyro.conf.UseAppendAction
Positional = tyro.conf.Positional
Assignments = Annotated[tuple[str, ...], Repeated, tyro.conf.arg(metavar="FIELD=VALUE")]
STORAGE = os.environ.get("MMPO_STORAGE") or "runs"
"""Where things are kept unless --storage says otherwise."""


class Stored:
    """What keeps things somewhere."""

    storage: str

    @property
    def folder(self) -> Path:
        """The storage on this machine. Raises InputError where it is none."""
        return place_of(self.storage)


@dataclass(frozen=True, kw_only=True)
class Options(Stored):
    """What is trained on what."""

    objective: str = "mmpo"
    """mmpo, dpo, simpo, rpo, exo, cpo, bco, kto, apo, sppo, nca, rnce, mc_po, on_mc_po, online_dpo; or one of the
    variants in mmpo_train/config.py."""
    model: str = "tiny"
    """Starting model: 'tiny' (made here on first use), a folder, or a hub id."""
    recipe: str = ""
    """Settings to start from: tiny, smollm2-135m, smollm2-360m, llama-3.2-1b, llama-3-8b, or any for the paper's batch
    and lengths alone. Default: the recipe of the hub id, or the one that the folder was instruction-tuned by."""
    settings: str = "paper"
    """paper: as its text says; author: as its author's code did (data, truncation and rendering differ)."""
    dataset: Annotated[tuple[str, ...], Repeated] = ()
    """Preference data: a JSON, JSONL, CSV or Parquet file, a `datasets` folder or a hub id, as
    SOURCE[:TRAIN_SPLIT[:VALIDATION_SPLIT]]. Repeat it for a mixture. Default: the recipe's, or tiny's own."""
    seed: int = 42
    """Order of the pairs, random negatives, LoRA initialisation."""
    storage: str = STORAGE
    """Where everything is kept that is made: models, token tables, checkpoints, results. A folder, on several machines
    one that all of them share, or s3://BUCKET/PATH or gs://BUCKET/PATH. Default: MMPO_STORAGE, or runs."""
    set: Assignments = ()
    """Any other field of a trial, such as beta=0.05 or epochs=1; they are listed in mmpo_train/config.py."""
    strict: bool = False
    """Refuse data with any unusable row."""
    drop_bad_rows: bool = False
    """Leave out and count rows that would be refused."""
    show_examples: int = 0
    """Print this many tokenised examples first: what is scored and what was cut."""


def base_config(options: Options) -> TrialConfig:
    """The recipe of the options' model with what the options change. Raises InputError naming every bad field."""
    if options.strict and options.drop_bad_rows:
        raise InputError("--strict refuses bad rows and --drop-bad-rows leaves them out: give one of the two")
    base = recipe_for(options.model, options.recipe, options.settings)
    own_data = find_recipe(options.model, options.recipe).preference_data(options.settings)
    named = {"objective": options.objective, "seed": options.seed, "dataset": options.dataset or own_data}
    assigned = parse_assignments(options.set)
    for name in ("objective", "seed", "dataset", "model"):
        if name in assigned:
            raise InputError(f"--set {name}=… has an option of its own: --{name}")
    return replace(base, objective_settings(options.objective) | named | assigned)
