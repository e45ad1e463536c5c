"""What a worker uses of its machine, under the names that MLflow's pages list as system metrics."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil
import torch

from mmpo_train.metric_names import SYSTEM

_SECONDS_BETWEEN_LOOKS = 15.0


class Usage:
    """Looks at the machine from time to time."""

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
