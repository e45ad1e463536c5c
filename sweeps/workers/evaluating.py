"""Evaluators of a sweep as Ray actors, on a CPU without torch in their memory."""

from typing import Any

from eval_workers.actors import Actors
from eval_workers.warm_evaluators import WarmReward
from sweeps.workers.ray_worker import in_fork


class ForkedReward(WarmReward):
    """A `WarmReward` that scores each checkpoint in a fork of its node's warm process."""

    def __init__(self) -> None:
        pass  # what the other keeps in memory is loaded by each fork

    def evaluate(self, *where: str) -> dict[str, Any]:
        """As the other's."""
        return in_fork(_evaluate, *where)

    def starting_model(self, *what: Any) -> dict[str, float]:
        """As the other's."""
        return in_fork(_starting_model, *what)


def _evaluate(*where: str) -> dict[str, Any]:
    return WarmReward().evaluate(*where)


def _starting_model(*what: Any) -> dict[str, float]:
    return WarmReward().starting_model(*what)


class Workplace(Actors):
    """Where the evaluators of trials on Ray work. With a GPU they keep its context, and their models, in memory."""

    def start(self, kind: type, *arguments: Any) -> Any:
        """A handle to a new evaluator."""
        forks = kind is WarmReward and not self.seat.get("num_gpus")
        return super().start(ForkedReward if forks else kind, *arguments)
