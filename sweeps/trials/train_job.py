"""One trial: a Tune function that runs one Ray Train job, and the function of the job's workers.

Reports are plain values and go from worker to Train controller, to Tune, to the stage's driver. Only the driver writes
to MLflow and to the screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import ray.train
from ray import tune
from ray.exceptions import RayActorError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.execution.controller import TrainController

from sweeps.cluster.leaving import INTERRUPTED, is_leaving, told_to_go
from sweeps.trials.elastic import OneNode
from sweeps.trials.restarts import MAX_LOSSES, Attempts, Leftovers, is_loss


def drive_trial(space: dict[str, Any]) -> None:
    """Run one trial to its end. Tune calls this function; it needs almost no resources itself."""
    run_job(space["job"], train_worker)


def run_job(job: dict[str, Any], worker: Callable[[dict[str, Any]], None]) -> None:
    """Run `worker(job)` on all workers of a Ray Train job, to its end, however many of them are lost on the way.

    `job`: digest, config and places (dicts), ray_storage, all of `TrialResources.job`; of a trial also watched, and its
    judged epochs.
    """
    for start in range(1, MAX_LOSSES + 1):
        try:
            _trainer(job, worker).fit()
            return
        except (ControllerError, RayActorError) as error:
            # Train restarts workers that are lost while they work, but not those lost during their start.
            if start == MAX_LOSSES or not is_loss(getattr(error, "controller_failure", error)):
                raise


def _trainer(job: dict[str, Any], worker: Callable[[dict[str, Any]], None]) -> Trainer:
    resources = {"CPU": job["cpus_per_worker"]} | ({"GPU": job["gpus_per_worker"]} if job["use_gpu"] else {})
    is_elastic = job["min_workers"] < job["workers"]
    workers: Any = (job["min_workers"], job["workers"]) if is_elastic else job["workers"]
    # `Attempts` has the limit; the wait for a place on the cluster has none.
    without_end: dict[str, Any] = {"max_preemption_failures": -1, "controller_failure_limit": -1}
    return Trainer(
        worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=job["use_gpu"],
            resources_per_worker=resources,
            accelerator_type=job["accelerator_type"] or None,
            placement_strategy="STRICT_PACK",  # on one node: between nodes, gradients would take the network
        ),
        torch_config=TorchConfig(backend=job["backend"]),
        run_config=RunConfig(
            name=job["digest"],
            storage_path=job["ray_storage"],
            failure_config=FailureConfig(max_failures=-1, **without_end),
            callbacks=[Attempts(), Leftovers(), ToTune()],  # type: ignore[list-item]
        ),
    )


def begin(job: dict[str, Any]) -> None:
    """What every worker does first: it says how many there are, as the time before, without a place, costs nothing;
    and it keeps to its CPUs where it trains on them, or to its share of the GPU's memory."""
    import torch

    from mmpo_train.devices import keep_to_share

    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(job["cpus_per_worker"])))
    keep_to_share(job["gpu_share"])
    ray.train.report({"workers": ray.train.get_context().get_world_size()})


def train_worker(job: dict[str, Any]) -> None:
    """The function of each DeepSpeed worker of a trial."""
    import warnings

    warnings.filterwarnings("ignore")
    from eval_workers.actors import ask_for_segment
    from mmpo_train.engines.deepspeed_engine import zero_engine
    from mmpo_train.training import from_plain, run
    from mmpo_train.trial.loop import Left
    from mmpo_train.trial.reports import report_on

    begin(job)
    trial, places = from_plain(job)
    folder, how = places.trial(trial), {"watched": job["watched"], "judged": job["judged"]}
    work = partial(run, trial, places, zero_engine, ask=ask_for_segment, told_to_go=told_to_go(folder), **how)
    try:
        report_on(work, ray.train.report)
    except Left:
        if not is_leaving(folder):
            raise  # its node is taken away: it is started again on another one
        ray.train.report({"left": INTERRUPTED})


class Trainer(TorchTrainer):
    """A TorchTrainer whose controller runs in the trial's driver, which would otherwise only wait for it.

    Ray 2.60 starts a process for the controller, which imports Ray and torch again before the workers do, and has no
    public way to replace the scaling policy. The actor for Ray's datasets is left out too.
    """

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]  # type: ignore[misc]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if self.scaling_config.elasticity_enabled:  # type: ignore[attr-defined]
            arguments["scaling_policy"] = OneNode(self.scaling_config)
        controller = TrainController(**arguments)
        try:
            asyncio.run(controller.run())
        finally:
            if (workers := controller.get_worker_group()) is not None:
                workers.shutdown()
        return controller.get_result()


class ToTune(UserCallback):
    """Passes the workers' reports to Tune. Ray's own callback needs another process for a queue, which may be on a node
    that is lost."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by the controller with the reports of all workers."""
        tune.report(metrics[0])
