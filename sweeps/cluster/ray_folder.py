"""What a Ray of our own keeps: its folder, and the token that it asks every process for."""

import os
import secrets
import sys
import tempfile
from pathlib import Path

from mmpo_train.errors import InputError
from mmpo_train.storage.whole_file import keep_private

_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a socket that the system takes."""


def ray_folder() -> tuple[Path, str]:
    """The folder, and the variable that names it; as Ray itself looks for it."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if os.environ.get(variable) and (variable == "RAY_TMPDIR" or sys.platform.startswith("linux")):
            return Path(os.environ[variable]), variable
    return Path("/tmp"), "the default"


def own_folder() -> Path:
    """The part for a Ray of our own, whose logs and sockets nobody else may read. Ray opens its folders to everybody,
    and so needs one around them that is closed."""
    folder = _private(ray_folder()[0])
    folder.mkdir(0o700, exist_ok=True)
    folder.chmod(0o700)
    return folder / "ray"


def _private(folder: Path) -> Path:
    return folder / f"mmpo-{os.getuid()}"


def check_ray_folder() -> None:
    """Raises InputError where Ray's sockets have no room in the folder's path, or nothing can be written there."""
    folder, variable = ray_folder()
    socket = f"{_private(folder)}/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    if (length := len(os.fsencode(socket))) > _SOCKET_BYTES:
        raise InputError(
            f"{folder} ({variable}) is too long a path for Ray, which keeps sockets below it: theirs would have "
            f"{length} bytes, and the system takes {_SOCKET_BYTES}; export RAY_TMPDIR=/tmp, or another short one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        own_folder()
    except OSError as error:
        raise InputError(
            f"{folder} ({variable}), where Ray keeps its files, cannot be written ({error.strerror}); "
            "export RAY_TMPDIR=/tmp, or another folder"
        ) from error


def token_file() -> Path:
    """Where Ray looks for its token, if the environment has none."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def guard_token() -> None:
    """Make the token if there is none. Whoever reads it commands this user's Rays, and Ray itself would write it for
    all to read."""
    path = token_file()
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    keep_private(path)
    if not path.read_text().strip():
        path.write_text(secrets.token_hex(32))
