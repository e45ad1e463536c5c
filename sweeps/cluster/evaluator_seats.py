"""Placement of evaluators: on their own GPUs, or sharing the training GPUs."""

import dataclasses

from mmpo_train.errors import InputError
from sweeps.cluster.accelerators import ANY, MEANT, known_accelerator
from sweeps.cluster.nodes import Nodes, counted
from sweeps.cluster.placement import Seat, TrialResources
from sweeps.plan.options import SweepEvaluation

SHARE = 0.05
"""Share of each training GPU that Ray reserves for evaluators if they share it; memory is not divided. It is small
because Ray adds up the rests of several GPUs: those of 18 GPUs are still less than a worker asks for."""


def seat_evaluators(
    resources: TrialResources, nodes: Nodes, actors: int, settings: SweepEvaluation
) -> tuple[Seat, TrialResources, str]:
    """The evaluators' placement, the resources of a trial beside them, and a line that says so (empty on CPUs).

    Evaluators with whole GPUs reserve them before the trials do, if one trial still fits. Otherwise they share the
    trials' GPUs, so that no trial waits for them and no node loses a GPU that a trial of several workers needs. If
    `settings` names another GPU type they use that. Raises InputError if the cluster has too few of it.
    """
    gpus, asked = settings.gpus_per_actor, resources.accelerator_type
    if not resources.use_gpu:
        return Seat(actors=actors), resources, ""
    if not gpus:
        return Seat(actors=actors, on_head=True), resources, "evaluators run on the head's CPUs"
    kind = _own_type(settings.accelerator, nodes, actors, gpus) or asked
    if asked and kind != asked:
        return Seat(actors=actors, gpus=gpus, accelerator_type=kind), resources, f"evaluators: {gpus:g} {kind} each"
    little = ""
    if gpus >= 1:
        own = Seat(actors=actors, gpus=gpus, accelerator_type=kind)
        left = own.leaves(nodes)
        room = left.of_type(asked) if asked else left
        if room.most_at_once(resources.workers, resources.cpus_per_worker, 1):
            return own, resources, f"evaluators: their own {counted(gpus, 'GPU')} each"
        little = f": {counted(actors, 'evaluator')} with {counted(gpus, 'GPU')} each would leave no room for a trial"
    part = int(SHARE / actors * 10_000) / 10_000  # Ray counts in ten thousandths
    sharing = Seat(actors=actors, gpus=part, accelerator_type=kind)
    beside = dataclasses.replace(resources, left_by_evaluators=1 - SHARE)
    return sharing, beside, f"evaluators share the training GPUs{little}"


def _own_type(accelerator: str, nodes: Nodes, actors: int, gpus: float) -> str:
    """The GPU type named for evaluators; empty for the trials' type. Raises InputError if the cluster has too few."""
    named = known_accelerator(accelerator, nodes) if accelerator else ANY
    if named == ANY:
        return ""
    rooms = {name: nodes.of_type(name).total_gpus for name in MEANT.get(named, (named,))}
    best = max(rooms, key=lambda name: rooms[name])
    if rooms[best] < actors * gpus:
        raise InputError(
            f"--evaluation.accelerator {accelerator}: {counted(actors, 'evaluator')} with {gpus:g} GPU each need more "
            f"than the cluster can have: {nodes}"
        )
    return best
