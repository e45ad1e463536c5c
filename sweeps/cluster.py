"""The Ray cluster: reached or started, and what a trial asks of it."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo_train.errors import InputError
from sweeps.forecast import accelerator_name

# Set before ray is imported; an address in the environment means that a cluster is there already.
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how soon a worker's report is fetched
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_worker_maximum_startup_concurrency": "8",  # a trial has four processes; above 4 x 2 cores Ray warns
    "RAY_AIR_NEW_OUTPUT": "0",  # the table is ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the stage at once; the same command goes on
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONWARNINGS": "ignore",
}
_LOCAL_OBJECT_STORE_BYTES = 200 * 2**20


@dataclass(frozen=True)
class TrialResources:
    """What one trial asks of the cluster, and how many run at a time."""

    workers: int
    use_gpu: bool
    cpus_per_worker: int
    concurrent: int
    accelerator: str = ""
    """The GPUs' type as Ray names it, such as H100; several are joined by a slash."""

    def __str__(self) -> str:
        named = f" ({self.accelerator})" if self.accelerator else ""
        each = f"1 GPU{named}" if self.use_gpu else f"{self.cpus_per_worker} CPU"
        plural = "s" if self.workers > 1 else ""
        return f"{self.workers} worker{plural} of {each}"


def plan_resources(cpus: float, gpus: float, workers: int, concurrent: int, accelerator: str = "") -> TrialResources:
    """Workers on GPUs where there are any, else on CPUs; as many trials at a time as fit, or as many as asked.

    `concurrent` = 0 means as many as fit. Raises InputError where not even one trial fits.
    """
    use_gpu = gpus >= 1
    available = int(gpus if use_gpu else cpus)
    kind = "GPU" if use_gpu else "CPU"
    if workers < 1:
        raise InputError(f"--workers-per-trial must be at least 1, got {workers}")
    if concurrent < 0:
        raise InputError(f"--concurrent-trials must be at least 1, or 0 for as many as fit, got {concurrent}")
    if workers > available:
        raise InputError(
            f"a trial of {workers} workers needs {workers} {kind}s, this cluster has {available}; "
            f"give --workers-per-trial {max(1, available)} or fewer"
        )
    fit = available // workers
    return TrialResources(workers, use_gpu, 1, min(concurrent or fit, fit), accelerator if use_gpu else "")


def local_resources() -> tuple[float, float]:
    """CPUs and GPUs of this machine, without importing torch."""
    gpus = len([name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = min(gpus, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
    return float(len(os.sched_getaffinity(0))), float(gpus)


def resources_here(workers: int, concurrent: int) -> TrialResources | None:
    """What a trial gets on this machine; None for a cluster at RAY_ADDRESS, known once it is reached."""
    if "RAY_ADDRESS" in os.environ:
        return None
    return plan_resources(*local_resources(), workers, concurrent, local_accelerator())


def local_accelerator() -> str:
    """The type of this machine's GPUs; empty where there is none or the driver does not say."""
    described = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE) for path in described]
    return "/".join(sorted({accelerator_name(model[1]) for model in models if model}))


def cluster_accelerator() -> str:
    """The same of the cluster that is connected to."""
    import ray

    prefix = "accelerator_type:"
    return "/".join(sorted(name.removeprefix(prefix) for name in ray.cluster_resources() if name.startswith(prefix)))


_keeping: ContextVar[bool] = ContextVar("keeping", default=False)


@contextmanager
def kept_cluster() -> Iterator[None]:
    """Inside, the Ray that one command starts or reaches stays for those after it; it is left at the end."""
    token = _keeping.set(True)
    try:
        yield
    finally:
        _keeping.reset(token)
        if "ray" in sys.modules:
            import ray

            ray.shutdown()


@contextmanager
def cluster(verbose: bool) -> Iterator[tuple[float, float]]:
    """A connection to the cluster at RAY_ADDRESS, or a Ray of our own on this machine; yields its CPUs and GPUs.

    What was started is stopped at the end, that of `kept_cluster` where there is one. The dashboard listens on
    localhost alone.
    """
    for name, value in _ENVIRONMENT.items():  # before ray is imported
        os.environ.setdefault(name, value)
    import ray

    if not (_keeping.get() and ray.is_initialized()):
        _connect(verbose)
    try:
        total = ray.cluster_resources()
        yield total.get("CPU", 0.0), total.get("GPU", 0.0)
    finally:
        if not _keeping.get():
            ray.shutdown()


def _connect(verbose: bool) -> None:
    """Reach the cluster at RAY_ADDRESS, or start one. Raises InputError where it does not answer."""
    warnings.filterwarnings("ignore")
    import ray

    environment = {name: os.environ[name] for name in _ENVIRONMENT}
    arguments: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
        "runtime_env": {"env_vars": environment},
    }
    if not os.environ.get("RAY_ADDRESS"):
        # One process less for each trial: nobody takes this machine away with notice.
        environment["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
        cpus, gpus = local_resources()
        arguments |= {
            "num_cpus": int(cpus),
            "num_gpus": int(gpus),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "object_store_memory": _LOCAL_OBJECT_STORE_BYTES,
        }
    if not verbose:
        for name in ("ray", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Of a failed trial the stage says why in one line; Tune would add the traceback of every layer it came through.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        ray.init(**arguments)
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS")
        raise InputError(
            f"the Ray cluster at RAY_ADDRESS={address} does not answer; start it with `ray up cluster.yaml`, or unset "
            "RAY_ADDRESS to run on this machine"
        ) from error


def map_on_cluster(use_gpu: bool, progress: Callable[[float], None]) -> Callable[..., list[Any]]:
    """A `map_shards` for the reference store: every shard is a Ray task on one CPU or GPU."""

    def map_shards(function: Callable[..., Any], work: Sequence[tuple]) -> list[Any]:
        import ray

        task = ray.remote(function).options(num_cpus=1, num_gpus=1 if use_gpu else 0)
        references = [task.remote(*arguments) for arguments in work]
        waiting = references
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=1)
            progress(1 - len(waiting) / len(references))
        return ray.get(references)

    return map_shards


def ray_storage(storage: Path) -> str:
    """Where Ray keeps its own records of a sweep."""
    return str((storage / "ray").resolve())
