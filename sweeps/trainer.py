"""Ray Train's job in the process that asked for it."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import tune
from ray.train import UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.execution.controller import TrainController

from sweeps.elastic import OneNode


class Trainer(TorchTrainer):
    """TorchTrainer whose controller runs in the trial's driver, which else would do nothing but wait for it.

    Ray 2.60 gives it a process of its own, which imports Ray and torch once more before the workers begin to; and has
    no public place for another policy of an elastic trial either. Nor is there an actor for Ray's datasets.
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
    """Hands what the workers report to Tune. Its own callback for that has a process more for a queue between the two,
    which may lie on a node that is lost."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by the controller for what all workers have reported."""
        tune.report(metrics[0])
