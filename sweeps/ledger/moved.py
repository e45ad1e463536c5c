"""A storage that was moved or copied: its database and its records name files by where they were."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"
_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def settle(database: Path) -> None:
    """Let a database name the artifacts beside it, where it names a folder of that name elsewhere.

    Does nothing if there are no artifacts beside it, or the database has no tables yet.
    """
    here = database.parent / ARTIFACTS
    if not here.is_dir():
        return
    connection = sqlite3.connect(database, timeout=20)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (place,) in places:
            old = _folder(place or "")
            if old is not None and old != here:
                for table, column in _COLUMNS:  # names from the list above
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?",
                        (here.as_uri(), len(place) + 1, place, f"{place}/%"),
                    )
        connection.commit()
    finally:
        connection.close()


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
