"""The working time of a trial's workers, which is its cost. Waiting does not count."""

import time
from collections.abc import Mapping
from typing import Any


class WorkClock:
    """Seconds of a trial with all its workers: a minute with half of them counts as half a minute.

    It runs from the first report of a group of workers to the last. The wait for a place, at the start or after a node
    was lost, does not count.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        """Number of workers if none is missing."""
        self._there = 0
        self._last = 0.0
        self._seconds = 0.0

    def hear(self, report: Mapping[str, Any]) -> None:
        """Process a report of the workers, who have worked until now. A group's first report has its number of
        `workers`."""
        now = time.monotonic()
        if report.get("workers"):
            self._there = report["workers"]
        else:
            self._seconds += (now - self._last) * self._there / self.workers
        self._last = now

    def seconds(self) -> float:
        """The seconds so far."""
        return self._seconds
