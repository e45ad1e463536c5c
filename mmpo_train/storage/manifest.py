"""Folders that appear whole or not at all, and whose damage is noticed.

A folder is filled next to its target, sealed with `manifest.json` (the SHA-256 of every file, written last) and
renamed. Readers verify a folder before they use it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from mmpo_train.storage.whole_file import sha256_of, sync, sync_folder

MANIFEST = "manifest.json"


class DamagedFolder(Exception):
    """The folder is missing, incomplete or changed; the message names the file."""


def stage(target: Path) -> Path:
    """An empty folder next to `target`, to fill and then seal; leftovers of a killed writer are removed."""
    staging = target.with_name(f".partial-{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def seal(staging: Path, target: Path) -> None:
    """Write the manifest into the staged folder and move it to `target`, which it replaces."""
    sums = {name: sha256_of(staging / name) for name in _files(staging)}
    (staging / MANIFEST).write_text(json.dumps({"sha256": sums}, indent=1))
    put_in_place(staging, target)


def put_in_place(staging: Path, target: Path) -> None:
    """Move a folder with a manifest to `target`, which it replaces, once all of it is on disk."""
    for path in staging.rglob("*"):
        sync_folder(path) if path.is_dir() else sync(path)
    sync_folder(staging)
    if target.exists():
        outgoing = target.with_name(f".outgoing-{target.name}")
        shutil.rmtree(outgoing, ignore_errors=True)
        target.rename(outgoing)
        staging.rename(target)
        shutil.rmtree(outgoing, ignore_errors=True)
    else:
        staging.rename(target)
    sync_folder(target.parent)


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill `target` by `fill(folder)`, atomically: after a crash or a full disk it is absent or as before."""
    staging = stage(target)
    try:
        fill(staging)
        seal(staging, target)
    except BaseException:  # Ctrl-C too must leave no half-filled folder behind
        shutil.rmtree(staging, ignore_errors=True)
        raise


def verify(folder: Path) -> None:
    """Check that every file is as it was written. Raises DamagedFolder otherwise."""
    for name, expected in read_manifest(folder).items():
        path = folder / name
        if not path.is_file():
            raise DamagedFolder(f"{path} is missing")
        if sha256_of(path) != expected:
            raise DamagedFolder(f"{path} has changed since it was written")


def read_manifest(folder: Path) -> dict[str, str]:
    """File -> SHA-256 from the folder's manifest. Raises DamagedFolder if it cannot be read."""
    try:
        sums = dict(json.loads((folder / MANIFEST).read_text())["sha256"].items())
    except FileNotFoundError:
        raise DamagedFolder(f"{folder} has no {MANIFEST}: it was never finished") from None
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
        raise DamagedFolder(f"{folder / MANIFEST} is unreadable") from None
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in sums):
        raise DamagedFolder(f"{folder / MANIFEST} names files outside of the folder")
    return sums


def is_whole(folder: Path) -> bool:
    """Whether `verify` passes."""
    try:
        verify(folder)
    except DamagedFolder:
        return False
    return True


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST
    )


def lock(folder: Path) -> FileLock:
    """A lock for the one process that makes the folder; a second one waits and then finds it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))
