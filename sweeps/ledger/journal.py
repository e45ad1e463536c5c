"""The journal that keeps a trial's points safe until MLflow has them, held by one driver at a time."""

import errno
import json
import math
import os
import socket
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmpo_train.errors import InputError
from mmpo_train.redaction import masked_values
from mmpo_train.storage.whole_file import keep_private, write_whole

FILE_NAME = "points.jsonl"
_OWNER, _SUM = "owner.json", "crc32"


class TrialTaken(InputError):
    """Another driver runs this trial."""


class Journal:
    """A trial's append-only file of JSON lines, open for one driver at a time. It survives a kill at any byte.

    Entries have a `kind`. A metric is stored once per step: `fresh` drops every (step, metric) that is there already,
    so that a resumed trial that repeats old steps stores nothing twice.
    """

    def __init__(self, folder: Path):
        """Take the trial's lock, remove an incomplete last line, and open the file for appending.

        Raises TrialTaken, naming the holder, if another driver has the trial. The operating system releases the lock
        when a driver dies.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # thread_local=False: taken by the driver's thread, released by the ledger's.
        self._lock = FileLock(folder / "lock", thread_local=False)
        former = _take(self._lock, folder)
        self.digest = folder.name
        self.path = folder / FILE_NAME
        keep_private(self.path)
        self._size = _repair(self.path)
        self.entries = read_entries(self.path)
        is_lost = bool(former.get("journal")) and not self.entries
        self.is_damaged = is_lost or len(self.entries) < self.path.read_bytes().count(b"\n")
        """Whether entries are missing that MLflow may have."""
        self._seen = {(entry["step"], name) for entry in self.entries for name in entry.get("metrics", ())}
        self._last = {name: step for step, name in sorted(self._seen)}
        named = (entry["journal"] for entry in self.entries if "journal" in entry)
        self.identity: str = next(named, "") or str(former.get("journal") or uuid.uuid4().hex[:16])
        """Names this journal in the ledger; kept in an entry as `journal`, and with the owner in case it is damaged."""
        write_whole(folder / _OWNER, json.dumps({**_this_process(), "journal": self.identity}))
        self._file = self.path.open("ab", buffering=0)
        self._writing = threading.Lock()

    def had(self, step: int, name: str) -> bool:
        """Whether the metric was there at this step or a later one when the journal was opened."""
        return self._last.get(name, -1) >= step

    def fresh(self, step: int, metrics: Mapping[str, float]) -> dict[str, float | None]:
        """The metrics that the journal does not have at this step yet; None for values that are not finite."""
        return {
            name: float(value) if math.isfinite(value) else None
            for name, value in metrics.items()
            if (step, name) not in self._seen
        }

    def append(self, entry: dict[str, Any], *, durable: bool = False) -> dict[str, Any]:
        """The entry as it stands in the journal, without secrets. It survives a kill of the process; with `durable`, a
        loss of power too."""
        entry = masked_values(entry)
        line = _line(entry)
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
        """Release the trial, so that another driver can take it."""
        self._file.close()
        self._lock.release()


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The readable entries in order; empty without a journal."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries = (_parsed(line) for line in lines)
    return [entry for entry in entries if entry is not None]


def judged_suites(entries: Iterable[Mapping[str, Any]]) -> dict[int, set[str]]:
    """Epoch -> the evaluations that have judged its checkpoint."""
    judged: dict[int, set[str]] = {}
    for entry in entries:
        if entry["kind"] in ("evaluation", "suite"):
            judged.setdefault(entry["epoch"], set()).add(entry.get("suite", "reward"))
    return judged


def _take(lock: FileLock, folder: Path) -> dict[str, Any]:
    """What the former owner has written of itself; empty where nothing can be read."""
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        held_by = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        owner, held_by = {}, "another process"  # it took the lock this very moment
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrialTaken(
            f"trial {folder.name} is being run by {held_by}; wait for it or stop it, then run the same command again"
        ) from None
    return owner


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _line(entry: Mapping[str, Any]) -> bytes:
    """The entry's line, with a sum of it: a changed digit must not pass for another measurement."""
    text = json.dumps(entry, separators=(",", ":"), allow_nan=False)
    return f'{text[:-1]},"{_SUM}":{zlib.crc32(text.encode())}}}\n'.encode()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None if it is damaged. Earlier versions wrote no sums."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or "kind" not in entry:
        return None
    if (found := entry.pop(_SUM, None)) is not None:
        text, _, _ = line.rpartition(f',"{_SUM}":'.encode())
        return entry if zlib.crc32(text + b"}") == found else None
    return entry


def _repair(path: Path) -> int:
    """Size of the journal in bytes after an incomplete last line was removed, or its missing newline added."""
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
