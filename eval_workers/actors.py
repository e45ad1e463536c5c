"""Evaluators as warm Ray actors. The door to ray on this side."""

from __future__ import annotations

from typing import Any

import ray


class RewardAccuracyActor:
    """Holds the validation pairs and a model; scores one checkpoint folder after the other."""

    def __init__(self, tokens_folder: str, reference_folder: str) -> None:
        from eval_workers.reward_accuracy import RewardAccuracy

        self.evaluate_folder = RewardAccuracy(tokens_folder, reference_folder)

    def evaluate(self, checkpoint: str) -> dict[str, Any]:
        """Plain numbers, as `RewardAccuracy` gives them."""
        return self.evaluate_folder(checkpoint)

    def starting_model(self, config: dict[str, Any]) -> dict[str, float]:
        """Metrics of the model that training starts from, by the config's objective."""
        return self.evaluate_folder.starting_model(config)


def start_reward_accuracy(tokens_folder: str, reference_folder: str, gpus: float = 0.0) -> Any:
    """A handle to a fresh actor. It asks for no CPU, so that it never takes a trainer's place."""
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 3, "max_task_retries": 3}
    return ray.remote(**options)(RewardAccuracyActor).remote(tokens_folder, reference_folder)
