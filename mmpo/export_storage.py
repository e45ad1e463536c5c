"""Export a search as a zip file: ledger, choices, reports, and its checkpoints when asked: `mmpo export FILE.zip`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mmpo_train.options import STORAGE, Positional, Stored


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Stored):
    """Export a storage as a zip file: ledger, choices, reports, trials."""

    file: Annotated[Path, Positional]
    """The zip file to write; it must not exist yet."""
    checkpoints: bool = False
    """Export the checkpoints, too."""
    storage: str = STORAGE
    """Storage to export: a folder. Default: the value of MMPO_STORAGE, or runs."""


def export(options: ExportOptions) -> None:
    """Write the file and say what to do with it."""
    from mmpo.archive import pack
    from mmpo_train.terminal import print_text

    size = pack(options.folder, options.file.expanduser(), checkpoints=options.checkpoints)
    print_text(f"exported: {options.file}, {size / 1e6:,.1f} MB")
    print_text(f"to open it: mmpo import {options.file.name} --storage FOLDER")


def main(arguments: list[str] | None = None) -> None:
    """Export from the command line."""
    from mmpo_train.terminal import run_program

    run_program(ExportOptions, export, "mmpo export", arguments)


if __name__ == "__main__":
    main()
