"""The journal a trial's points are safe in before MLflow has them, held by one driver at a time."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmpo_train.errors import InputError
from mmpo_train.redaction import masked_values
from mmpo_train.storage.whole_file import write_whole

FILE_NAME = "points.jsonl"


class TrialTaken(InputError):
    """Another driver runs this trial."""


class Journal:
    """A trial's append-only JSON lines, open for one driver at a time, that survive a kill at any byte.

    Entries have a `kind`. Those with `metrics` are kept unique: `fresh` drops every (step, metric) already
    there, so a resumed trial that walks over old steps doubles nothing.
    """

    def __init__(self, folder: Path):
        """Takes the trial's lock, cuts off a last line torn by a kill, and opens for appending.

        Raises TrialTaken, naming the holder, when another driver has the trial; the operating system gives
        the lock back when a driver dies.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # thread_local=False: taken by the driver's thread, released by the ledger's.
        self._lock = FileLock(folder / "lock", thread_local=False)
        _take(self._lock, folder)
        self.digest = folder.name
        self.path = folder / FILE_NAME
        self._size = _repair(self.path)
        self.entries = read_entries(self.path)
        self._seen = {(entry["step"], name) for entry in self.entries for name in entry.get("metrics", ())}
        named = (entry["journal"] for entry in self.entries if "journal" in entry)
        self.identity: str = next(named, uuid.uuid4().hex[:16])
        """Names this journal in the ledger; kept once an entry holds it as `journal`."""
        self._file = self.path.open("ab", buffering=0)
        self._writing = threading.Lock()

    def fresh(self, step: int, metrics: Mapping[str, float]) -> dict[str, float | None]:
        """The metrics not yet journaled at this step, values that are no finite number as None."""
        return {
            name: float(value) if math.isfinite(value) else None
            for name, value in metrics.items()
            if (step, name) not in self._seen
        }

    def append(self, entry: dict[str, Any], *, durable: bool = False) -> dict[str, Any]:
        """The entry as it stands in the journal, without secrets. It survives a kill of the process; with `durable`, a
        loss of power too."""
        entry = masked_values(entry)
        line = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._writing:
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                os.ftruncate(self._file.fileno(), self._size)  # or the next entry would share half a line
                raise
            if durable:
                os.fsync(self._file.fileno())
            self._size += len(line)
            self.entries.append(entry)
            self._seen.update((entry["step"], name) for name in entry.get("metrics", ()))
        return entry

    def close(self) -> None:
        """Another driver may have the trial from here on."""
        self._file.close()
        self._lock.release()


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The readable entries in order; none where there is no journal."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries = (_parsed(line) for line in lines)
    return [entry for entry in entries if entry is not None]


def _take(lock: FileLock, folder: Path) -> None:
    holder = folder / "owner.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            owner = json.loads(holder.read_text(encoding="utf-8"))
            held_by = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (OSError, ValueError, KeyError):
            held_by = "another process"  # it took the lock this very moment
        raise TrialTaken(
            f"trial {folder.name} is being run by {held_by}; wait for it or stop it, then run the same command again"
        ) from None
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_whole(holder, json.dumps(owner))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "kind" in entry else None


def _repair(path: Path) -> int:
    """Bytes of the journal after a torn last line was cut off, or completed where only its newline is missing."""
    content = path.read_bytes() if path.exists() else b""
    last = content.rpartition(b"\n")[2]
    if not last:
        return len(content)
    if _parsed(last) is not None:
        with path.open("ab") as file:
            file.write(b"\n")
        return len(content) + 1
    os.truncate(path, len(content) - len(last))
    return len(content) - len(last)
