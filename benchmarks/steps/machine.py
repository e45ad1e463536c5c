"""The machine that figures are from: its name, its clock, its peak, and the versions of the libraries."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

# Dense bf16 FLOP/s as the makers state them; what is not listed is measured.
_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_flop(device: torch.device) -> tuple[float, str]:
    """FLOP per second of the device's products of matrices, and where that is from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
        for known, flop in _PEAK.items():
            if known in name:
                return flop, f"{known}, dense bf16, as stated by its maker"
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = now(device)
        torch.mm(left, right)
        seconds.append(now(device) - started)
    best = min(seconds)
    return 2 * size**3 / best, f"measured: a product of {size} x {size} matrices"


def machine() -> str:
    """What this runs on, in words."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """The versions of the libraries that are compared."""
    return {name: version(name) for name in ("torch", "transformers", "trl")}
