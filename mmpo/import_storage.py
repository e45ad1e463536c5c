"""Make a storage of an exported search; all programs open it: `mmpo import FILE.zip --storage FOLDER`."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mmpo_train.options import Positional, Stored


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Stored):
    """Make a storage of an exported search."""

    file: Annotated[Path, Positional]
    """The zip file that mmpo export wrote."""
    storage: str
    """Folder for the storage; it must be new or empty."""


def import_(options: ImportOptions) -> None:
    """Make the storage and say how to look at it."""
    from mmpo.archive import unpack
    from mmpo_train.terminal import print_text
    from mmpo_train.typed.programs import as_typed
    from sweeps.ledger.ledger import connect

    unpack(options.file.expanduser(), options.folder)
    with closing(connect(f"sqlite:///{options.folder.resolve()}/mlflow.db", options.folder)) as ledger:
        for command in (f"mmpo report --storage {options.storage}", ledger.ui_command()):
            print_text(as_typed(command))


def main(arguments: list[str] | None = None) -> None:
    """Import from the command line."""
    from mmpo_train.terminal import run_program

    run_program(ImportOptions, import_, "mmpo import", arguments)


if __name__ == "__main__":
    main()
