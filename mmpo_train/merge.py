"""Merge LoRA adapters into the model that they adapt: `mmpo merge CHECKPOINT FOLDER`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mmpo_train.options import Positional


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Merge a checkpoint's LoRA adapters into the model that they adapt."""

    checkpoint: Annotated[Path, Positional]
    """Checkpoint folder of a trial that trained LoRA adapters."""
    target: Annotated[Path, Positional]
    """Folder for the merged model; it must not exist yet."""
    base: str = ""
    """The adapted model, a folder or a hub id. Default: the place that the adapters name."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the merged weights. bf16 halves the size and rounds."""


def merge(options: MergeOptions) -> None:
    """Write the merged model. Raises InputError if the folder cannot be merged."""
    from mmpo_train.errors import InputError
    from mmpo_train.model.folders import local_folder
    from mmpo_train.model.policy import merge_adapters
    from mmpo_train.storage.manifest import MANIFEST, DamagedFolder, verify, write_folder
    from mmpo_train.terminal import console

    checkpoint, target = options.checkpoint.expanduser(), options.target.expanduser()
    if not checkpoint.is_dir():
        raise InputError(f"checkpoint folder {checkpoint} does not exist")
    if target.exists():
        raise InputError(f"{target} exists already; remove it, or name another folder")
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

    run_program(MergeOptions, merge, "mmpo merge", arguments)


if __name__ == "__main__":
    main()
