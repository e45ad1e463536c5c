"""A storage's ledger, reports and trials as one zip file, to hand to a colleague."""

import os
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mmpo_train.errors import InputError, first_line
from mmpo_train.options import STORAGE, Positional, Stored
from mmpo_train.storage.manifest import put_in_place
from mmpo_train.storage.whole_file import whole_file
from mmpo_train.terminal import print_text, run_program
from mmpo_train.typed.programs import as_typed

DATABASE = "mlflow.db"
_KEPT = ("mlartifacts", "report", "reports", "plots", "optuna", "trials")
_CHECKPOINTS = ("checkpoints",)
_NEVER = ("resume",)
"""The part of a trial's folder that only serves to resume it."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Stored):
    """Export a storage as a zip file: ledger, choices, reports, trials."""

    file: Annotated[Path, Positional]
    """The zip file to write; it must not exist yet."""
    checkpoints: bool = False
    """Export the checkpoints, too."""
    storage: str = STORAGE
    """Storage to export: a folder. Default: the value of MMPO_STORAGE, or runs."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Stored):
    """Make a storage of an exported search."""

    file: Annotated[Path, Positional]
    """The zip file that mmpo export wrote."""
    storage: str
    """Folder for the storage; it must be new or empty."""


def export_storage(arguments: list[str] | None = None) -> None:
    """Export a search as a zip file: ledger, choices, reports and, when asked, checkpoints: `mmpo export FILE.zip`."""

    def program(options: ExportOptions) -> None:
        size = pack(options.folder, options.file.expanduser(), checkpoints=options.checkpoints)
        print_text(f"exported: {options.file}, {size / 1e6:,.1f} MB")
        print_text(f"to open it: mmpo import {options.file.name} --storage FOLDER")

    run_program(ExportOptions, program, "mmpo export", arguments)


def import_storage(arguments: list[str] | None = None) -> None:
    """Make a storage of an exported search; all programs open it: `mmpo import FILE.zip --storage FOLDER`."""

    def program(options: ImportOptions) -> None:
        from sweeps.ledger.ledger import connect

        unpack(options.file.expanduser(), options.folder)
        with closing(connect(f"sqlite:///{options.folder.resolve()}/{DATABASE}", options.folder)) as ledger:
            for command in (f"mmpo report --storage {options.storage}", ledger.ui_command()):
                print_text(as_typed(command))

    run_program(ImportOptions, program, "mmpo import", arguments)


def pack(storage: Path, target: Path, *, checkpoints: bool) -> int:
    """Write the zip file; returns its size in bytes. Raises InputError if the storage has no ledger of its own."""
    database = storage / DATABASE
    if not database.is_file():
        raise InputError(f"{storage} has no {DATABASE}: the ledger of a server is not exported; give another --storage")
    if target.exists():
        raise InputError(f"{target} exists already; remove it, or name another file")
    with tempfile.TemporaryDirectory() as folder, whole_file(target) as half:
        copy = Path(folder) / DATABASE
        _copy_database(database, copy)  # as it is at one moment, while others may write
        with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(copy, DATABASE)
            for path in _files(storage, checkpoints):
                archive.write(path, path.relative_to(storage))
    return target.stat().st_size


def unpack(source: Path, storage: Path) -> None:
    """Make a storage of the zip file, whole or not at all. Raises InputError if it cannot be made."""
    if storage.exists() and any(storage.iterdir()):
        raise InputError(f"{storage} is not empty; name a new folder with --storage")
    storage.parent.mkdir(parents=True, exist_ok=True)
    staging = storage.with_name(f".partial-{storage.name}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with zipfile.ZipFile(source) as archive:
            if DATABASE not in archive.namelist():
                raise InputError(f"{source} is no export: it has no {DATABASE}")
            size, free = sum(one.file_size for one in archive.infolist()), shutil.disk_usage(storage.parent).free
            if size > free:
                raise InputError(f"{source} unpacks to {size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free")
            archive.extractall(staging)  # names that lead out of the folder are made harmless
        put_in_place(staging, storage)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{source} cannot be unpacked: {first_line(error)}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _files(storage: Path, checkpoints: bool) -> Iterator[Path]:
    left_out = _NEVER if checkpoints else (*_NEVER, *_CHECKPOINTS)
    for name in _KEPT:
        for folder, inside, files in os.walk(storage / name):
            place = Path(folder).relative_to(storage).parts
            if name == "trials" and len(place) == 2:
                inside[:] = [one for one in inside if one not in left_out]
            yield from (Path(folder) / file for file in sorted(files) if not file.endswith(".lock"))


def _copy_database(database: Path, copy: Path) -> None:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
