"""The folder in which a Ray of our own keeps its files, and whether it can."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from mmpo_train.errors import InputError

_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a socket that the system takes."""


def ray_folder() -> tuple[Path, str]:
    """The folder, and the variable that names it; as Ray itself looks for it."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if os.environ.get(variable) and (variable == "RAY_TMPDIR" or sys.platform.startswith("linux")):
            return Path(os.environ[variable]), variable
    return Path("/tmp"), "the default"


def check_ray_folder() -> None:
    """Raises InputError where Ray's sockets have no room in the folder's path, or nothing can be written there."""
    folder, variable = ray_folder()
    socket = f"{folder}/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    if (length := len(os.fsencode(socket))) > _SOCKET_BYTES:
        raise InputError(
            f"{folder} ({variable}) is too long a path for Ray, which keeps sockets below it: theirs would have "
            f"{length} bytes, and the system takes {_SOCKET_BYTES}; export RAY_TMPDIR=/tmp, or another short one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"{folder} ({variable}), where Ray keeps its files, cannot be written ({error.strerror}); "
            "export RAY_TMPDIR=/tmp, or another folder"
        ) from error
