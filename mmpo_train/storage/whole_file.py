"""Small files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place, to disk, and rename it; its folder is made where it is missing.

    After a crash or on a full disk the file is as it was before. Readers and other writers, on this node or another,
    never see half of it. Text is UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(beside, "xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:  # Ctrl-C too must leave no half of a file behind
        beside.unlink(missing_ok=True)
        raise
