"""Where evaluators sit: on GPUs of their own, or as guests on those that train."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmpo_train.errors import InputError
from sweeps.cluster.accelerators import ANY, MEANT, known_accelerator
from sweeps.cluster.nodes import ACCELERATOR, HEAD_NODE, Nodes, counted
from sweeps.cluster.placement import TrialResources

if TYPE_CHECKING:
    from sweeps.plan.options import SweepEvaluation

GUESTS_SHARE = 0.05
"""Of each GPU that trains, where evaluators are guests. Ray counts with it; the memory is nobody's alone. It is small,
since Ray takes the rests of several GPUs for one: those of 18 are still less than a worker asks for."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Of every evaluator of a sweep."""

    actors: int
    gpus: float = 0.0
    """What Ray is asked for, for each of them."""
    accelerator_type: str = ""
    on_head: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Of a Ray actor."""
        # A hair of the resource that all nodes of a type have, as Ray itself asks for a type.
        wanted = {f"{ACCELERATOR}{self.accelerator_type}": 0.001} if self.accelerator_type else {}
        return {"num_gpus": self.gpus, "resources": wanted | ({HEAD_NODE: 0.001} if self.on_head else {})}

    def leaves(self, nodes: Nodes) -> Nodes:
        """What the trials have beside them. Guests take nothing."""
        return nodes.without(math.ceil(self.actors * self.gpus), self.accelerator_type) if self.gpus >= 1 else nodes


def seat_evaluators(
    resources: TrialResources, nodes: Nodes, actors: int, settings: SweepEvaluation
) -> tuple[Seat, TrialResources, str]:
    """The evaluators' seats, what a trial asks for beside them, and a line that says so; empty on CPUs.

    With whole GPUs each they take them before the trials do, where one trial still fits. Otherwise they are guests on
    the trials' GPUs: nothing is taken that a trial could wait for, and no node loses a GPU that packed trials need.
    On GPUs of another type, where `settings` names one, they are in nobody's way. Raises InputError where those are
    too few.
    """
    gpus, asked = settings.gpus_per_actor, resources.accelerator_type
    if not resources.use_gpu:
        return Seat(actors=actors), resources, ""
    if not gpus:
        return Seat(actors=actors, on_head=True), resources, "evaluators take no GPU: they work on the head's CPUs"
    kind = _own_type(settings.accelerator, nodes, actors, gpus) or asked
    if asked and kind != asked:
        return Seat(actors=actors, gpus=gpus, accelerator_type=kind), resources, f"evaluators: {gpus:g} {kind} each"
    little = ""
    if gpus >= 1:
        own = Seat(actors=actors, gpus=gpus, accelerator_type=kind)
        left = own.leaves(nodes)
        room = left.of_type(asked) if asked else left
        if room.most_at_once(resources.workers, resources.cpus_per_worker, 1):
            return own, resources, f"evaluators: {counted(gpus, 'GPU')} each, of their own"
        little = f": {actors} with {counted(gpus, 'GPU')} each leave no room for a trial"
    part = int(GUESTS_SHARE / actors * 10_000) / 10_000  # Ray counts in ten thousandths
    guests = Seat(actors=actors, gpus=part, accelerator_type=kind)
    beside = dataclasses.replace(resources, gpus_per_worker=1 - GUESTS_SHARE)
    return guests, beside, f"evaluators are guests on the trials' GPUs{little}"


def _own_type(accelerator: str, nodes: Nodes, actors: int, gpus: float) -> str:
    """The type of GPU that evaluators are to have; empty for that of the trials."""
    named = known_accelerator(accelerator, nodes) if accelerator else ANY
    if named == ANY:
        return ""
    rooms = {name: nodes.of_type(name).total_gpus for name in MEANT.get(named, (named,))}
    best = max(rooms, key=lambda name: rooms[name])
    if rooms[best] < actors * gpus:
        raise InputError(
            f"--evaluation.accelerator {accelerator}: {counted(actors, 'evaluator')} of {gpus:g} GPU each ask for more "
            f"than the cluster can have: {nodes}"
        )
    return best
