"""How long a trial's workers worked: what it cost, whatever it waited for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class WorkClock:
    """Seconds of a trial, as if all its workers had been there: half of them for a minute count as half a minute.

    It runs from the first word of a group of workers to the last. What the trial waited for, a place at first and
    another one after its node was lost, does not count.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        """As many as there are when none is missing."""
        self._there = 0
        self._last = 0.0
        self._seconds = 0.0

    def hear(self, report: Mapping[str, Any]) -> None:
        """Take what workers say: whoever speaks has worked until now. First a group says how many `workers` it has."""
        now = time.monotonic()
        if report.get("workers"):
            self._there = report["workers"]
        else:
            self._seconds += (now - self._last) * self._there / self.workers
        self._last = now

    def seconds(self) -> float:
        """So far."""
        return self._seconds
