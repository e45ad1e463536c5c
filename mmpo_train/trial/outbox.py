"""Sending the points of a running trial in bundles, with what a worker uses of its machine."""

import time
from contextlib import suppress

import psutil
import torch

from mmpo_train.events import Finished, Point, Send
from mmpo_train.metric_names import STEP_SECONDS, SYSTEM

# Sending is collective and may wait for its receiver, so points travel in bundles.
_SECONDS_BETWEEN_SENDS = 1.0
_SECONDS_BETWEEN_LOOKS = 15.0


class Usage:
    """Looks at the machine from time to time, under the names that MLflow's pages list as system metrics."""

    def __init__(self) -> None:
        self._due = 0.0
        psutil.cpu_percent()  # the first answer of each process is 0

    def look(self) -> dict[str, float]:
        """CPU and memory of the machine, and the worker's GPU; empty within 15 seconds of the last look."""
        if time.monotonic() < self._due:
            return {}
        self._due = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        memory = psutil.virtual_memory()
        seen = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
        }
        return {f"{SYSTEM}{name}": float(value) for name, value in (seen | _gpu()).items()}


def _gpu() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    seen = {"gpu_0_memory_usage_megabytes": (total - free) / 1e6}
    seen["gpu_0_memory_usage_percentage"] = 100 * (total - free) / total
    with suppress(Exception):  # NVML's own errors, where it is not installed or the GPU is a slice
        seen["gpu_0_utilization_percentage"] = torch.cuda.utilization()
    return seen


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
