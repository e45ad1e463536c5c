"""Exchange of verdicts between evaluators on several nodes, through an object store.

Each file `<storage>/verdicts/*.jsonl` has the verdicts that one cache kept within some seconds, and is written once. A
cache reads the files of others at its start and after each file that it writes. All caches have a verdict
`SECONDS_UNSHARED` after it was kept. Before that it is paid for twice if its node is lost or another node asks the same
question. A verdict that was not yet shared when its process ended is shared by the next process on that node.
"""

import json
import logging
import secrets
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from mmpo_train.storage import object_store

logger = logging.getLogger(__name__)

SECONDS_UNSHARED = 20.0
_FILES_AT_A_TIME = 8


class SharedVerdicts:
    """A cache's part in the exchange. Rows are those of its table `verdicts`."""

    def __init__(self, database: sqlite3.Connection, lock: AbstractContextManager, address: str) -> None:
        """Read what others have shared, and start the thread that shares what is kept from now on."""
        self._database, self._lock, self._address = database, lock, address
        self._waits, self._open = threading.Event(), True
        with lock:
            database.execute("CREATE TABLE IF NOT EXISTS unshared (key TEXT PRIMARY KEY) WITHOUT ROWID")
            database.execute("CREATE TABLE IF NOT EXISTS read_files (name TEXT PRIMARY KEY) WITHOUT ROWID")
        self._share()

    def close(self) -> None:
        """Share what is left, so that the database can be closed."""
        self._share()
        self._open = False

    def kept(self, key: str) -> None:
        """Mark this row to be shared with the next file."""
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO unshared VALUES (?)", (key,))
        if not self._waits.is_set():
            self._waits.set()
            timer = threading.Timer(SECONDS_UNSHARED, self._share)
            timer.daemon = True
            timer.start()

    def _share(self) -> None:
        self._waits.clear()  # first: a row that is kept while this one is written needs another
        if not self._open:
            return
        try:
            self._write()
            self._read()
        except OSError as error:  # the rows wait here for the next time
            logger.warning("verdicts are not shared yet: %s", error)

    def _write(self) -> None:
        with self._lock:
            rows = self._database.execute("SELECT v.* FROM verdicts v JOIN unshared u ON v.key = u.key").fetchall()
        if not rows:
            return
        name = f"{time.time_ns()}-{secrets.token_hex(4)}.jsonl"
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        object_store.write(f"{self._address}/{name}", lines.encode())
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO read_files VALUES (?)", (name,))
            self._database.executemany("DELETE FROM unshared WHERE key = ?", [row[:1] for row in rows])

    def _read(self) -> None:
        with self._lock:
            known = {name for (name,) in self._database.execute("SELECT name FROM read_files")}
        fresh = sorted(set(object_store.files_below(self._address)) - known)
        with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
            contents = list(pool.map(lambda name: object_store.read(f"{self._address}/{name}"), fresh))
        for name, content in zip(fresh, contents, strict=True):
            rows = [json.loads(line) for line in (content or b"").splitlines()]
            with self._lock:
                self._database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?)", rows)
                self._database.execute("INSERT OR IGNORE INTO read_files VALUES (?)", (name,))
