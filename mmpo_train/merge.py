"""`python -m mmpo_train.merge`: LoRA adapters and the model they adapt, as one model to be served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mmpo_train.options import Positional


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Make a whole model of a checkpoint of LoRA adapters; it opens without peft, and in any server."""

    checkpoint: Annotated[Path, Positional]
    """A trial's checkpoint folder."""
    target: Annotated[Path, Positional]
    """Folder for the merged model; it must not exist yet."""
    base: str = ""
    """The model that was adapted, where it is no longer where it was: a folder or a hub id."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the merged weights: bf16 is half the size, and rounds."""


def merge(options: MergeOptions) -> None:
    """Write the merged model. Raises InputError for what cannot be merged."""
    from mmpo_train.errors import InputError
    from mmpo_train.model.folders import local_folder
    from mmpo_train.model.policy import merge_adapters
    from mmpo_train.storage.manifest import MANIFEST, DamagedFolder, verify, write_folder
    from mmpo_train.terminal import console

    checkpoint, target = options.checkpoint.expanduser(), options.target.expanduser()
    if not checkpoint.is_dir():
        raise InputError(f"there is no checkpoint folder {checkpoint}")
    if target.exists():
        raise InputError(f"{target} is there already; remove it, or name another folder")
    try:
        if (checkpoint / MANIFEST).is_file():
            verify(checkpoint)
    except DamagedFolder as damage:
        raise InputError(f"{damage}; copy the checkpoint again") from damage
    base = local_folder(options.base) if options.base else None
    write_folder(target, lambda folder: merge_adapters(checkpoint, folder, base, options.precision))
    console.print(f"merged: {target}", highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Merge from the command line."""
    from mmpo_train.terminal import run_program

    run_program(MergeOptions, merge, "python -m mmpo_train.merge", arguments)


if __name__ == "__main__":
    main()
