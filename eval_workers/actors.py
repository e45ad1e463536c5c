"""Evaluators as warm Ray actors. The door to ray in this package."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from eval_workers.warm_evaluators import WarmAnswering
from mmpo_train.errors import InputError

# No CPU, so that they never take a trainer's place. On a spot market an actor loses its node many times.
_OPTIONS: dict[str, Any] = {"num_cpus": 0, "max_restarts": 20, "max_task_retries": 20}
_ANSWERING = "answering"


class Actors:
    """The evaluators of one sweep as actors, which work while training goes on."""

    def __init__(self, seat: Mapping[str, Any], reserved: int = 0) -> None:
        """`seat`: where each of them runs, as options of a Ray actor.

        `reserved` actors with whole GPUs are reserved together and on as few nodes as possible: spread out, they would
        take GPUs from nodes that trials with several workers need. Waits until all GPUs are reserved.
        """
        self.seat, self.seats = dict(seat), None
        if reserved:
            one = {"GPU": seat["num_gpus"], **seat["resources"]}
            self.seats = placement_group([one] * reserved, strategy="PACK")
            ray.get(self.seats.ready())
            self.seat["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.seats)

    def start(self, kind: type, *arguments: Any) -> Any:
        """A handle to a new evaluator. If it dies it is restarted and its work repeated. `ask_for_segment` also finds
        the one that answers by name, from a training worker."""
        actor: Any = ray.remote(**_OPTIONS, **self.seat)(kind)
        named = {"name": _ANSWERING, "get_if_exists": True} if kind is WarmAnswering else {}
        return actor.options(**named).remote(*arguments)

    def ask(self, method: Any, *arguments: Any) -> Any:
        """A reference to the result of an evaluator's method; other methods take it in place of the result."""
        return method.remote(*arguments)

    def results(self, asked: Collection[Any], timeout_seconds: float) -> Iterator[tuple[Any, Any, Exception | None]]:
        """The references that are ready within the time, each with its result or with the error."""
        if not asked:
            return
        for reference in ray.wait(list(asked), num_returns=len(asked), timeout=timeout_seconds)[0]:
            try:
                yield reference, ray.get(reference), None
            except ray.exceptions.RayError as error:
                yield reference, None, error

    def value(self, reference: Any) -> Any:
        """The result of a reference, once it is ready. Raises the evaluator's error."""
        return ray.get(reference)

    def close(self) -> None:
        """Give reserved GPUs back for what the same command does next."""
        if self.seats is not None:
            remove_placement_group(self.seats)


def ask_for_segment(request: dict[str, Any]) -> Any:
    """A function that says whether the requested segment is ready. It raises if the segment could not be made."""
    done: Any = ray.get_actor(_ANSWERING).make_segment.remote(request)

    def is_made() -> bool:
        ready, _ = ray.wait([done], timeout=0)
        if ready:
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                # Ray's own class of error does not survive the next process border.
                raise error.cause if isinstance(error.cause, InputError) else RuntimeError(str(error)) from None
        return bool(ready)

    return is_made
