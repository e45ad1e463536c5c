"""Small files that appear whole or not at all, and caches whose damage is noticed."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, to disk, and rename it; its folder is made where it is missing.

    After a crash or on a full disk the file is as it was before. Readers and other writers, on this node or another,
    never see half of it. Text is UTF-8.
    """
    with whole_file(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A block that writes a file at the yielded place, from where it comes to `path` as `write_whole` has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    except BaseException:  # Ctrl-C too must leave no half of a file behind
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Return when a file's content is on disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Return when a folder's list of files is on disk, where its file system can tell."""
    number = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems sync files only
            os.fsync(number)
    finally:
        os.close(number)


def keep_private(path: Path) -> None:
    """Make the file if it is missing; from now on nobody but its owner reads it."""
    path.touch(0o600)
    if path.stat().st_mode & 0o077:
        with suppress(PermissionError):  # it is another's
            path.chmod(0o600)


def write_cache(path: Path, content: dict[str, Any]) -> None:
    """Write a dict that can be made anew, as JSON with its SHA-256."""
    write_whole(path, json.dumps({"sha256": _sum(content), "content": content}, indent=1))


def read_cache(path: Path) -> dict[str, Any]:
    """The dict that `write_cache` wrote; empty where the file is missing or damaged, so that it is made anew."""
    try:
        found = json.loads(path.read_text())
        content = found["content"]
        return content if isinstance(content, dict) and found["sha256"] == _sum(content) else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
