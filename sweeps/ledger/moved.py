"""A storage that was moved or copied: its database and its records name files by where they were."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from eval_workers.tracking.models import CHECKPOINT

ARTIFACTS = "mlartifacts"
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)

_CHECKPOINTS = (("logged_model_tags", "tag_value", "tag_key"), ("model_version_tags", "value", "key"))
"""Where tags of models name checkpoints: table, column of the value, column of the name."""


def settle(database: Path) -> None:
    """Let a database name the artifacts beside it, where it names a folder of that name elsewhere.

    Does nothing if there are no artifacts beside it, or the database has no tables yet.
    """
    here = database.parent / ARTIFACTS
    if not here.is_dir():
        return
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return
        places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (place,) in places:
            old = _folder(place or "")
            if old is None or old == here:
                continue
            before, now = str(old.parent), str(here.parent)
            moves = [(table, column, "1", place, here.as_uri()) for table, column in _COLUMNS]
            moves += [(table, column, f"{key} = '{CHECKPOINT}'", before, now) for table, column, key in _CHECKPOINTS]
            for table, column, which, was, new in moves:  # names from the lists above
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {which} AND ({column} = ? OR {column} LIKE ?)",
                        (new, len(was) + 1, was, f"{was}/%"),
                    )
        connection.commit()


def checkpoint_now(checkpoint: str, trials: Path) -> str:
    """The checkpoint's folder below `trials`, if it is not where it was written and is there."""
    _, found, rest = checkpoint.rpartition("/trials/")
    if not found or Path(checkpoint).exists() or not (trials / rest).is_dir():
        return checkpoint
    return str(trials / rest)


def _folder(place: str) -> Path | None:
    """The local folder of artifacts that a location names, if it is one of ours."""
    parts = urlsplit(place)
    folder = Path(url2pathname(parts.path)) if parts.scheme == "file" else None
    return folder if folder is not None and folder.name == ARTIFACTS else None
