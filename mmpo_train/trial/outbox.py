"""Sending the points of a running trial in bundles."""

import time

from mmpo_train.events import Finished, Point, Send
from mmpo_train.metric_names import STEP_SECONDS
from mmpo_train.trial.usage import Usage

# Sending is collective and may wait for its receiver, so points travel in bundles.
_SECONDS_BETWEEN_SENDS = 1.0


class Outbox:
    """Points that have not been sent yet. All workers fill and empty theirs at the same steps."""

    def __init__(self, send: Send, history: list[Point]) -> None:
        self.send, self.seconds, self.history = send, 0.0, history
        self.points: list[Point] = []
        self.usage = Usage()

    def put(self, metrics: dict[str, float], step: int) -> None:
        """Add a step's metrics; send the bundle after enough training time (the same number on all workers)."""
        self.points.append(Point(step, time.time_ns() // 1_000_000, metrics | self.usage.look()))
        self.history.append(self.points[-1])
        self.seconds += metrics[STEP_SECONDS]
        if self.seconds >= _SECONDS_BETWEEN_SENDS:
            self.flush(None)

    def flush(self, finished: Finished | None) -> None:
        """Send all points."""
        if self.points or finished:
            self.send(self.points, finished)
        self.points, self.seconds = [], 0.0
