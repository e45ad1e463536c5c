"""One trial: a Tune function that drives one Ray Train job, and what the job's workers do.

The trial's words travel upwards as plain values: worker -> Train controller -> Tune -> the stage's driver, which alone
writes to MLflow and to the screen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

# A worker group that dies, or runs out of memory and remembers smaller passes, is started again from the last epoch
# checkpoint so many times.
MAX_FAILURES = 3


def drive_trial(space: dict[str, Any]) -> None:
    """Run one trial to its end: the function that Tune calls. It asks for next to nothing itself."""
    run_job(space["job"], train_worker)


def run_job(job: dict[str, Any], worker: Callable[[dict[str, Any]], None]) -> None:
    """Run `worker(job)` on all workers of a Ray Train job, to its end.

    `job`: digest, config and places (dicts), ray_storage, workers, use_gpu, cpus_per_worker; of a trial also watched.
    """
    resources = {"CPU": job["cpus_per_worker"]} | ({"GPU": 1} if job["use_gpu"] else {})
    TorchTrainer(
        worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=job["workers"], use_gpu=job["use_gpu"], resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=job["digest"],
            storage_path=job["ray_storage"],
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    ).fit()


def train_worker(job: dict[str, Any]) -> None:
    """What each DeepSpeed worker of the trial does."""
    import warnings

    warnings.filterwarnings("ignore")
    import torch

    from eval_workers.actors import ask_for_segment
    from mmpo_train.config import from_dict
    from mmpo_train.deepspeed_engine import DeepSpeedEngine
    from mmpo_train.early_stop import Stopped
    from mmpo_train.events import Finished, Point
    from mmpo_train.loop import Diverged
    from mmpo_train.prepare import Places
    from mmpo_train.run import run_trial

    if not job["use_gpu"]:
        torch.set_num_threads(max(1, int(job["cpus_per_worker"])))

    def send(points: list[Point], finished: Finished | None) -> None:
        ray.train.report({"points": [tuple(point) for point in points], "finished": finished and tuple(finished)})

    def say(text: str) -> None:
        ray.train.report({"points": [], "finished": None, "said": text})

    config = from_dict(job["config"])
    places = Places(**{name: Path(path) for name, path in job["places"].items()})
    try:
        run_trial(config, places, DeepSpeedEngine, send, ask_for_segment, say, watched=job["watched"])
    except Stopped as reason:
        ray.train.report({"points": [], "finished": None, "stopped": str(reason)})
    except Diverged as reason:
        ray.train.report({"points": [], "finished": None, "diverged": str(reason)})


def failure_reason(error: BaseException | None) -> str:
    """One line that says what went wrong in a worker, without the layers it came through."""
    while True:
        failures = getattr(error, "worker_failures", None)
        wrapped = getattr(error, "cause", None) or getattr(error, "_base_exc", None)
        inner = next(iter(failures.values())) if failures else wrapped
        if inner is None or inner is error:
            break
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300] if lines else 'no message'}"
