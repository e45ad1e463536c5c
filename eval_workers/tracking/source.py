"""Who runs a command, which version of it, and on which libraries: MLflow's columns User, Source and Version, and the
environment.json of a trial."""

import getpass
import importlib.metadata
import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = (
    *("torch", "ray", "deepspeed", "transformers", "peft", "datasets", "bitsandbytes", "mlflow", "lm-eval", "numpy"),
)


@cache
def source_tags() -> dict[str, str]:
    """MLflow's own tags; the commit only where this is a clone of the repository. Arguments are not among them: they
    may hold secrets, and stand in the stage's file of options."""
    tags = {"mlflow.source.name": Path(sys.argv[0]).name or "python", "mlflow.source.type": "LOCAL"}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = "unknown"
    return tags | ({"mlflow.source.git.commit": commit} if (commit := _git("rev-parse", "HEAD")) else {})


@cache
def environment() -> dict[str, Any]:
    """The trial's environment: versions, platform, and the commit if this is a clone of the repository."""
    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    here = {"python": platform.python_version(), "platform": platform.platform(), "packages": versions}
    commit = source_tags().get("mlflow.source.git.commit")
    return here | ({"commit": commit, "uncommitted_changes": bool(_git("status", "--porcelain"))} if commit else {})


def _git(*arguments: str) -> str:
    """What git says of the repository; nothing where it is no clone, git is missing, or the clone is another user's."""
    asked = ["git", "-C", str(_REPOSITORY), *arguments]
    with suppress(OSError, subprocess.SubprocessError):
        if (_REPOSITORY / ".git").exists():
            return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return ""
