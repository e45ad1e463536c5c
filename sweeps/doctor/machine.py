"""Whether this machine has the GPUs, memory and disk space that trials need."""

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpo_train.data.packed import memory_left
from sweeps.cluster.ray_folder import ray_folder
from sweeps.doctor.findings import Finding, fine, note, problem

GB = 1e9
DRIVERS_BYTES = 2 * GB
"""Memory of Ray, MLflow and the sweep's own process, as measured on `tiny`."""
_CPU_BYTES_A_PARAMETER = 16  # weights, gradients and two moments in fp32
_GPU_BYTES_A_PARAMETER = 4  # the weights pass through the memory of each worker's process
_SMALL_SHARED_MEMORY = 200 * 2**20  # Ray's object store as we start it
_FULL = 0.95  # Ray writes no more objects to a disk that is fuller
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "glusterfs", "beegfs", "gpfs", "9p")


def gpus(devices: int, torch: Mapping[str, Any], wanted: bool) -> Iterator[Finding]:
    """The GPUs that the driver lists, and whether torch can compute on them.

    `devices` is the number that may be used, `torch` the answer of its import, `wanted` whether the model is too large
    to train without a GPU.
    """
    listed = _listed()
    if not devices and not listed:
        found = f"none; trials run on {len(os.sched_getaffinity(0))} CPU cores"
        if wanted and "RAY_ADDRESS" not in os.environ:
            yield note("GPUs", found, "a model of this size takes weeks on CPUs; use a cluster with RAY_ADDRESS")
        else:
            yield fine("GPUs", found)
        return
    if listed is None:
        found = f"{devices} found, but the driver does not answer (nvidia-smi)"
        yield problem("GPUs", found, "install the driver or reboot; `nvidia-smi` must list the GPUs")
        return
    if not devices:
        hidden = f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}"
        yield note("GPUs", f"{len(listed)} found, none of them usable: {hidden}", "unset CUDA_VISIBLE_DEVICES")
        return
    cuda, driver = torch.get("cuda"), listed[0]["driver"]
    if not torch.get("gpus"):
        if torch and not cuda:
            advice = "install its CUDA build: pip install --force-reinstall -c constraints.txt torch"
            yield problem("GPUs", "torch is a build for CPUs", advice)
        elif torch:
            advice = f"update the driver, now {driver}, to one for CUDA {cuda}"
            yield problem("GPUs", f"torch, built for CUDA {cuda}, sees no GPU", advice)
        return
    unfit = {one["arch"] for one in torch["gpus"] if not runs_on(torch["built_for"], one["arch"])}
    if unfit:
        found = f"torch has no kernels for {', '.join(sorted(unfit))}, only for {', '.join(torch['built_for'])}"
        yield problem("GPUs", found, "install a build of torch for these GPUs")
    sizes, counts = {one["name"]: one["megabytes"] / 1000 for one in listed}, Counter(one["name"] for one in listed)
    counted = ", ".join(f"{count} x {name} of {sizes[name]:.0f} GB" for name, count in counts.items())
    usable = "" if devices == len(listed) else f", {devices} usable"
    yield fine("GPUs", f"{counted}{usable}; driver {driver}, CUDA {cuda}")
    busy = [one for one in listed if one["used"] > 0.1 * one["megabytes"]]
    if busy:
        used = f"other processes use {sum(one['used'] for one in busy) / 1000:.0f} GB on {len(busy)} of {len(listed)}"
        yield note("GPUs", used, "end those processes, or leave the GPUs out with CUDA_VISIBLE_DEVICES")


def runs_on(built_for: Sequence[str], arch: str) -> bool:
    """Whether kernels built for these run on a GPU: those of its major version up to its minor one, or older PTX."""
    wanted, built = _version(arch), {one: _version(one) for one in built_for}
    return any(
        version <= wanted and (version[0] == wanted[0] or one.startswith("compute")) for one, version in built.items()
    )


def memory(parameters: int, workers: int, on_gpus: bool) -> Iterator[Finding]:
    """Free memory beside the need of one trial's workers, and shared memory."""
    free = memory_left()
    of_a_parameter = _GPU_BYTES_A_PARAMETER * workers if on_gpus else _CPU_BYTES_A_PARAMETER
    needed = DRIVERS_BYTES + of_a_parameter * parameters
    found = f"{free / GB:.1f} GB free"
    advice = f"a trial needs about {needed / GB:.1f} GB; end other processes, or use a larger machine"
    yield note("memory", found, advice) if free < needed else fine("memory", found)
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm")
        if shared.free < _SMALL_SHARED_MEMORY:
            found = f"/dev/shm has {shared.free / 1e6:.0f} of {shared.total / 1e6:.0f} MB free"
            yield note("memory", found, "Ray and NCCL need more: docker run --shm-size=8g, or remove files there")


def disk(folder: Path, needed: float, of_what: str) -> Iterator[Finding]:
    """Whether the folder can be written and has room, its file system, and room for Ray's own files."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-") as file:
            file.write(b"written")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield problem("storage", f"{folder} cannot be written ({error.strerror})", "give another folder with --storage")
        return
    free = shutil.disk_usage(there).free
    kind = file_system(there, Path("/proc/self/mounts").read_text())
    found = f"{folder}: {free / GB:,.1f} GB free on {kind}; {of_what} writes up to {needed / GB:,.2f} GB"
    advice = "free some space, or give another folder with --storage"
    yield problem("storage", found, advice) if free < needed else fine("storage", found)
    if kind in _NETWORK_FILE_SYSTEMS:
        advice = "keep the ledger elsewhere: an MLflow server and --tracking-uri; one driver at a time"
        yield note("storage", f"locks and SQLite are not safe on {kind}", advice)
    temporary, _ = ray_folder()
    usage = shutil.disk_usage(temporary) if temporary.is_dir() else None
    if usage is not None and usage.used > _FULL * usage.total:
        found = f"{temporary}, where Ray keeps its files, is {usage.used / usage.total:.0%} full"
        yield note("disk", found, "free some space there, or set RAY_TMPDIR to another folder")


def file_system(path: Path, mounts: str) -> str:
    """The type of a path's file system, from the lines of /proc/mounts."""
    fields = [line.split() for line in mounts.splitlines()]
    holding = [(one[1].replace("\\040", " "), one[2]) for one in fields if len(one) > 2]
    over = [(len(place), number, kind) for number, (place, kind) in enumerate(holding) if path.is_relative_to(place)]
    return max(over)[2] if over else "an unknown file system"


def _listed() -> list[dict[str, Any]] | None:
    """The GPUs that the driver lists; None if it fails, empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [[field.strip() for field in line.split(",")] for line in run.stdout.splitlines() if line.count(",") == 3]
    return [
        {"name": name, "megabytes": _number(total), "used": _number(used), "driver": driver}
        for name, total, used, driver in rows
    ]


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0  # `[N/A]` of a GPU that shares its memory


def _version(arch: str) -> tuple[int, int]:
    found = re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", arch)
    return (int(found[1]), int(found[2])) if found else (0, 0)
