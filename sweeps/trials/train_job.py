"""One trial: a Tune function that runs one Ray Train job, and what the job's workers do.

Reports are plain values and go from worker to Train controller, to Tune, to the stage's driver. Only the driver writes
to MLflow and to the screen.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from sweeps.trials.elastic import OneNode
from sweeps.trials.reasons import one_line
from sweeps.trials.restarts import MAX_LOSSES, Attempts, Leftovers, is_loss
from sweeps.workers.kept_group import Controller, Group, Places
from sweeps.workers.ray_worker import in_worker
from sweeps.workers.training import train
from sweeps.workers.warm import Task


def drive_trial(space: dict[str, Any]) -> None:
    """Run one trial to its end. Tune calls this function; it needs almost no resources itself."""
    drive(space["job"], train)


def drive(job: dict[str, Any], task: Task) -> None:
    """`run_job`, whose error is reported as `failed`: Tune starts a trial again only where this process itself dies."""
    try:
        run_job(job, task)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends this trial and no other
        tune.report({"failed": one_line(error)})


def run_job(job: dict[str, Any], task: Task) -> None:
    """Run `task(job, ask)` on all workers of a Ray Train job, to its end, however many of them are lost on the way.

    `job`: digest, config and places (dicts), ray_storage, all of `TrialResources.job`; of a trial also watched, and its
    judged epochs.
    """
    for start in range(1, MAX_LOSSES + 1):
        try:
            _trainer(job | {"task": task}).fit()
            return
        except (ControllerError, RayError) as error:
            # Train restarts workers that are lost while they work, but not those lost during their start.
            if start == MAX_LOSSES or not is_loss(getattr(error, "controller_failure", error)):
                raise


def _trainer(job: dict[str, Any]) -> Trainer:
    resources = {"CPU": job["cpus_per_worker"]} | ({"GPU": job["gpus_per_worker"]} if job["use_gpu"] else {})
    is_elastic = job["min_workers"] < job["workers"]
    workers: Any = (job["min_workers"], job["workers"]) if is_elastic else job["workers"]
    # `Attempts` has the limit; the wait for a place on the cluster has none.
    without_end: dict[str, Any] = {"max_preemption_failures": -1, "controller_failure_limit": -1}
    return Trainer(
        in_worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=job["use_gpu"],
            resources_per_worker=resources,
            accelerator_type=job["accelerator_type"] or None,
            placement_strategy="STRICT_PACK",  # on one node: between nodes, gradients would take the network
        ),
        backend_config=ByThemselves(),
        run_config=RunConfig(
            name=job["digest"],
            storage_path=job["ray_storage"],
            failure_config=FailureConfig(max_failures=-1, **without_end),
            callbacks=[Attempts(), Leftovers(), ToTune()],  # type: ignore[list-item]
        ),
    )


class Devices(Backend):
    """The workers of a trial see each other's GPUs. Their process group is their own affair."""

    share_cuda_visible_devices = True


class ByThemselves(BackendConfig):
    """Ray's own backend for torch imports it in workers and driver."""

    backend_cls = Devices


class Trainer(DataParallelTrainer):
    """A trainer whose controller runs in the trial's driver, which would otherwise only wait for it.

    Ray 2.60 starts a process for the controller, which imports Ray and torch again before the workers do, and has no
    public way to replace the scaling policy. The actors for Ray's datasets and for places left behind are left out too.
    """

    def _create_default_callbacks(self) -> list[Any]:
        left_out = DatasetsCallback, PlacementGroupCleanerCallback
        return [one for one in super()._create_default_callbacks() if not isinstance(one, left_out)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        is_elastic = self.scaling_config.elasticity_enabled  # type: ignore[attr-defined]
        arguments["scaling_policy"] = (OneNode if is_elastic else Places)(self.scaling_config)  # type: ignore[arg-type]
        controller = Controller(**arguments)
        if is_elastic:
            controller.worker_group_cls = Group  # it counts places that are free, which kept ones are not
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
