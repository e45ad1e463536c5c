"""What a trial asks of the cluster: so many workers, on GPUs of one type, all on one node."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from mmpo_train.errors import InputError
from mmpo_train.recipes import Recipe, find_recipe
from sweeps.cluster.accelerators import ANY, MEANT, known_accelerator
from sweeps.cluster.nodes import Nodes, counted
from sweeps.plan.options import SweepOptions

DRIVER_BYTES = 0.6 * 2**30
"""What one running trial takes of the head's memory: its driver, with Train's controller in it, and two small actors of
Train's."""


HARDWARE = "trial.hardware"
"""The tag of a trial that says what it was trained on."""


class NoRoom(InputError):
    """No node can hold a trial."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the command line says of a trial's place, and what its recipe does."""

    recipe: Recipe
    workers: int = 0
    """0 for the recipe's."""
    min_workers: int = 0
    """0 where the trial is not elastic."""
    accelerator: str = ""
    """Empty for the recipe's; or `any`."""
    concurrent: int = 0
    """0 for as many as fit."""


@dataclass(frozen=True)
class TrialResources:
    """What one trial asks of the cluster, and how many run at a time."""

    workers: int
    use_gpu: bool
    cpus_per_worker: int
    concurrent: int
    accelerator: str = ""
    """The GPUs' type as Ray names it, such as H100; several are joined by a slash."""
    min_workers: int = 0
    """So many workers will do while there are no more; 0 where the trial is not elastic."""
    accelerator_type: str = ""
    """What Ray is asked for: one type, or empty for any."""
    gpus_per_worker: float = 1.0
    """Below 1 where evaluators share the worker's GPU."""
    note: str = ""
    """Why it is not what the recipe says; empty where it is."""

    def __str__(self) -> str:
        named = f" ({self.accelerator})" if self.accelerator else ""
        each = f"1 GPU{named}" if self.use_gpu else f"{self.cpus_per_worker} CPU"
        fewest = f"{self.min_workers} to " if self.min_workers and self.min_workers < self.workers else ""
        return f"{fewest}{self.workers} worker{'s' if self.workers > 1 else ''} of {each}"

    def job(self) -> dict[str, Any]:
        """What a trial's driver passes on to Ray Train."""
        return {
            "workers": self.workers,
            "min_workers": self.min_workers or self.workers,
            "use_gpu": self.use_gpu,
            "cpus_per_worker": self.cpus_per_worker,
            "gpus_per_worker": self.gpus_per_worker,
            "accelerator": self.accelerator_type,
            "backend": "nccl" if self.use_gpu and not logical_gpus() else "gloo",
        }

    @property
    def precision(self) -> str:
        """What `auto` becomes."""
        return "bf16" if self.use_gpu and not logical_gpus() else "fp32"


def logical_gpus() -> bool:
    """Whether MMPO_LOGICAL_GPUS=1 says that the cluster's GPUs are numbers only: trials are placed by them and train on
    CPUs. It is there to test a cluster's configuration where there are no such machines."""
    return os.environ.get("MMPO_LOGICAL_GPUS", "") == "1"


def place(wish: Wish, nodes: Nodes) -> TrialResources:
    """The trial's resources on these nodes. Raises InputError where no node can ever hold a trial."""
    if wish.workers < 0:
        raise InputError(f"--workers-per-trial must be at least 1, or 0 for the recipe's, got {wish.workers}")
    if wish.concurrent < 0:
        raise InputError(f"--concurrent-trials must be at least 1, or 0 for as many as fit, got {wish.concurrent}")
    named = known_accelerator(wish.accelerator, nodes) if wish.accelerator else ""
    asked = named or ("" if nodes.local else wish.recipe.accelerator)
    workers = wish.workers or wish.recipe.workers
    if not 0 <= wish.min_workers <= workers:
        raise InputError(
            f"--min-workers-per-trial must be from 1 to the trial's {workers} workers, or 0, got {wish.min_workers}"
        )
    note = ""
    if asked and asked != ANY:
        accelerator_type, room = _of_type(asked, wish.min_workers or workers, nodes)
        use_gpu, accelerator = True, accelerator_type
        fits = room.largest(1, 1)
        if workers > fits:
            note = f"no node can have {workers} workers of a trial; it gets {fits}"
            workers = fits
    else:
        use_gpu, accelerator_type, room = nodes.gpus, "", nodes
        accelerator = "/".join(sorted({kind.accelerators[0] for kind in nodes.kinds if kind.accelerators}))
        fits = room.largest(1, int(use_gpu))
        if fits < 1:
            raise NoRoom(_nothing_fits(nodes))
        if workers > fits and (not wish.workers or 0 < wish.min_workers <= fits):
            asked_for = _recipe_asks(wish.recipe) if not wish.workers else f"{workers} workers are asked for"
            note = f"{asked_for}; here a trial gets {counted(fits, 'worker')}"
            workers = fits
        if workers > fits:
            kind, where = "GPU" if use_gpu else "CPU", "this machine" if nodes.local else "its largest node"
            raise NoRoom(
                f"a trial of {workers} workers needs {workers} {kind}s on one node, {where} has {fits}; "
                f"give --workers-per-trial {fits} or fewer"
            )
    fewest = min(wish.min_workers, workers)
    resources = TrialResources(workers, use_gpu, 1, 1, accelerator, fewest, accelerator_type)
    at_a_time = concurrency(resources, nodes, wish.concurrent)
    if at_a_time < (wish.concurrent or at_a_time + 1) and at_a_time < _that_fit(resources, nodes):
        note += f"{'; ' if note else ''}the head has memory for {counted(at_a_time, 'trial')} at a time"
    return dataclasses.replace(resources, concurrent=at_a_time, note=note)


def assumed(wish: Wish) -> TrialResources:
    """What is asked for, of a cluster that cannot be asked whether it has it."""
    workers = wish.workers or wish.recipe.workers
    accelerator = MEANT.get(wish.accelerator or wish.recipe.accelerator, (wish.accelerator or wish.recipe.accelerator,))
    note = "the cluster at RAY_ADDRESS does not answer; it is taken to have what is asked for"
    name = "" if accelerator[0] == ANY else accelerator[0]
    return TrialResources(workers, True, 1, wish.concurrent or 1, name, wish.min_workers, name, note=note)


def concurrency(resources: TrialResources, nodes: Nodes, wanted: int = 0) -> int:
    """How many such trials run at a time, at least one: as wanted, as nodes hold that are there or can be started, and
    as the head has memory for."""
    fit = _that_fit(resources, nodes)
    # On one machine the workers' cores and GPUs end before its memory does.
    drivers = fit if nodes.local else int(min(fit, nodes.head_memory // DRIVER_BYTES))
    return max(1, min(wanted or fit, fit, drivers))


def _that_fit(resources: TrialResources, nodes: Nodes) -> int:
    room = nodes.of_type(resources.accelerator_type) if resources.accelerator_type else nodes
    return room.most_at_once(resources.workers, resources.cpus_per_worker, int(resources.use_gpu))


def _of_type(asked: str, workers: int, nodes: Nodes) -> tuple[str, Nodes]:
    """The type to ask for, of those meant the one with most room, and the nodes that have it."""
    rooms = {name: nodes.of_type(name) for name in MEANT.get(asked, (asked,))}
    best = max(rooms, key=lambda name: rooms[name].most_at_once(workers, 1, 1))
    if rooms[best].largest(1, 1) >= workers:
        return best, rooms[best]
    meant = " or ".join(rooms)
    here = "this machine" if nodes.local else "this cluster"
    plenty = max(rooms.values(), key=lambda room: room.largest(1, 1)).largest(1, 1)
    advice = [f"--workers-per-trial {plenty} or fewer"] if plenty else []
    others = [name for name in nodes.accelerators if name not in rooms and nodes.of_type(name).largest(1, 1) >= workers]
    advice += [f"--accelerator {name}" for name in others] or [f"--accelerator {ANY} for what there is"]
    elsewhere = "" if nodes.local else f", or add a node type with {workers} {meant} to cluster.yaml"
    raise NoRoom(
        f"a trial asks for {counted(workers, 'GPU')} of type {meant} on one node; {here} has {nodes}: "
        f"give {' or '.join(advice)}{elsewhere}"
    )


def _recipe_asks(recipe: Recipe) -> str:
    gpus = f" on {recipe.accelerator} GPUs" if recipe.accelerator else ""
    return f"recipe {recipe.name} asks for {counted(recipe.workers, 'worker')}{gpus}"


def _nothing_fits(nodes: Nodes) -> str:
    if nodes.local:
        return "this machine has neither a GPU nor a CPU to train on"
    return f"the cluster has {nodes}: start some that have CPUs or GPUs, and join them with `ray start --address=…`"


def wish_of(options: SweepOptions) -> Wish:
    """What the options and the recipe say of a trial's place."""
    return Wish(
        recipe=find_recipe(options.model, options.recipe),
        workers=options.workers_per_trial,
        min_workers=options.min_workers_per_trial,
        accelerator=options.accelerator,
        concurrent=options.concurrent_trials,
    )


def hardware(resources: TrialResources) -> str:
    """`2 x H100`, `1 x CPU`: what a trial runs on."""
    return f"{resources.workers} x {(resources.accelerator or 'GPU') if resources.use_gpu else 'CPU'}"
