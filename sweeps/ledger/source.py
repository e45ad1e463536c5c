"""Who runs a command, and which version of it: MLflow's columns User, Source and Version."""

import getpass
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def source_tags() -> dict[str, str]:
    """MLflow's own tags; the commit only where this is a clone of the repository. Arguments are not among them: they
    may hold secrets, and stand in the stage's file of options."""
    tags = {"mlflow.source.name": Path(sys.argv[0]).name or "python", "mlflow.source.type": "LOCAL"}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = "unknown"
    if (_REPOSITORY / ".git").exists():
        asked = ["git", "-C", str(_REPOSITORY), "rev-parse", "HEAD"]
        with suppress(OSError, subprocess.SubprocessError):  # no git here, or the clone is another user's
            answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
            tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return tags
