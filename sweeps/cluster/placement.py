"""The resources of a trial: a number of workers on GPUs of one type, all on one node."""

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any

from mmpo_train.errors import InputError
from mmpo_train.recipes import Recipe, find_recipe
from sweeps.cluster.accelerators import ANY, MEANT, known_accelerator
from sweeps.cluster.nodes import ACCELERATOR, HEAD_NODE, Nodes, counted
from sweeps.ledger.tags import Hardware
from sweeps.plan.options import SweepOptions

DRIVER_BYTES = 0.3e9
"""Memory on the head of one running trial: its driver with Train's controller, 0.14 GB as measured, and a barrier as
large if it has several workers."""
WARM_BYTES = 0.55e9
"""Memory of a node's warm process, most of which its forks share."""

_LEAST_SHARE = 0.01


class NoRoom(InputError):
    """No node can hold a trial."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """The placement of each evaluator of a sweep."""

    actors: int = 0
    gpus: float = 0.0
    """GPUs that each of them asks Ray for."""
    accelerator_type: str = ""
    on_head: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The placement as options of a Ray actor."""
        # A small part of the resource that all nodes of a type have, as Ray itself asks for a type.
        wanted = {f"{ACCELERATOR}{self.accelerator_type}": 0.001} if self.accelerator_type else {}
        return {"num_gpus": self.gpus, "resources": wanted | ({HEAD_NODE: 0.001} if self.on_head else {})}

    def leaves(self, nodes: Nodes) -> Nodes:
        """The nodes without the evaluators' own GPUs; evaluators that share GPUs take none away."""
        return nodes.without(math.ceil(self.actors * self.gpus), self.accelerator_type) if self.gpus >= 1 else nodes


@dataclass(frozen=True)
class TrialResources:
    """The resources of one trial, and how many trials run at the same time."""

    workers: int
    use_gpu: bool
    cpus_per_worker: int
    concurrent: int
    gpu_types: tuple[str, ...] = ()
    """Types of the GPUs that a worker may get, in Ray's names, such as H100."""
    min_workers: int = 0
    """Fewest workers of an elastic trial; 0 if the trial is not elastic."""
    accelerator_type: str = ""
    """GPU type to ask Ray for; empty for any."""
    gpu_share: float = 1.0
    """Share of a GPU and of its memory for each worker; below 1 if several trials share a GPU."""
    left_by_evaluators: float = 1.0
    """Part of that share that a worker asks Ray for; below 1 if evaluators share the GPU."""
    seat: Seat = Seat()
    """The evaluators' placement."""
    in_process: bool = False
    """Whether the trial runs in the command's own process."""
    note: str = ""
    """How the resources differ from the recipe's and why; empty if they do not."""

    @property
    def gpus_per_worker(self) -> float:
        """GPUs that a worker asks Ray for, which counts in ten thousandths."""
        return int(self.gpu_share * self.left_by_evaluators * 10_000 + 1e-6) / 10_000

    @property
    def accelerators(self) -> float:
        """GPUs, or CPU workers, of one trial."""
        return self.workers * self.gpu_share

    def __str__(self) -> str:
        named = f" ({'/'.join(self.gpu_types)})" if self.gpu_types else ""
        each = f"{self.gpu_share:g} GPU{named}" if self.use_gpu else f"{self.cpus_per_worker} CPU"
        fewest = f"{self.min_workers} to " if self.min_workers and self.min_workers < self.workers else ""
        return f"{fewest}{self.workers} worker{'s' if self.workers > 1 else ''} of {each}"

    def job(self) -> dict[str, Any]:
        """The resources that a trial's driver passes to Ray Train."""
        return {
            "workers": self.workers,
            "min_workers": self.min_workers or self.workers,
            "use_gpu": self.use_gpu,
            "cpus_per_worker": self.cpus_per_worker,
            "gpus_per_worker": self.gpus_per_worker,
            "gpu_share": self.gpu_share,
            "accelerator_type": self.accelerator_type,
            "backend": "nccl" if self.use_gpu and not logical_gpus() else "gloo",
        }

    @property
    def place(self) -> str:
        """Where trials run, in words."""
        return "this cluster" if os.environ.get("RAY_ADDRESS") and not self.in_process else "this machine"

    @property
    def precision(self) -> str:
        """The precision that `auto` stands for."""
        return "bf16" if self.use_gpu and not logical_gpus() else "fp32"


def logical_gpus() -> bool:
    """Whether MMPO_LOGICAL_GPUS=1: Ray schedules by GPU count but training runs on CPUs, to test a cluster file."""
    return os.environ.get("MMPO_LOGICAL_GPUS", "") == "1"


def place(options: SweepOptions, nodes: Nodes) -> TrialResources:
    """The resources of a trial on these nodes. Raises InputError if no node can ever hold a trial."""
    recipe, workers = _wanted(options)
    least, share, given = options.min_workers_per_trial, options.gpus_per_worker, options.workers_per_trial
    named = known_accelerator(options.accelerator, nodes) if options.accelerator else ""
    asked = named or ("" if nodes.local else recipe.accelerator)
    notes = []
    gpu_types: tuple[str, ...]
    if asked and asked != ANY:
        accelerator_type, room = _of_type(asked, least or workers, nodes)
        use_gpu, gpu_types = True, (accelerator_type,)
        fits = room.largest(1)
        if workers > fits:
            notes.append(f"no node fits {workers} workers; each trial uses {fits}")
            workers = fits
    else:
        use_gpu, accelerator_type, room = nodes.gpus, "", nodes
        gpu_types = tuple(sorted({kind.gpu_types[0] for kind in nodes.kinds if kind.gpu_types}))
        fits = room.largest(int(use_gpu))
        if fits < 1:
            raise NoRoom(_nothing_fits(nodes))
        if workers > fits and (not given or 0 < least <= fits):
            asked_for = _recipe_asks(recipe) if not given else f"--workers-per-trial is {workers}"
            notes.append(f"{asked_for}; here each trial uses {counted(fits, 'worker')}")
            workers = fits
        if workers > fits:
            kind, where = "GPU" if use_gpu else "CPU", "this machine" if nodes.local else "its largest node"
            raise NoRoom(
                f"a trial of {workers} workers needs {workers} {kind}s on one node, but {where} has {fits}; "
                f"give --workers-per-trial {fits} or fewer"
            )
    if share < 1 and not use_gpu:
        notes.append(f"without GPUs --gpus-per-worker {share:g} has no effect")
        share = 1.0
    resources = TrialResources(workers, use_gpu, 1, 1, gpu_types, min(least, workers), accelerator_type, share)
    at_a_time, most = concurrency(resources, nodes, options.concurrent_trials), options.concurrent_trials
    if at_a_time < (most or at_a_time + 1) and at_a_time < _that_fit(resources, nodes):
        notes.append(f"the head has memory for {counted(at_a_time, 'trial')} at the same time")
    return dataclasses.replace(resources, concurrent=at_a_time, note="; ".join(notes))


def assumed(options: SweepOptions) -> TrialResources:
    """The wanted resources, assumed to exist in a cluster that does not answer."""
    recipe, workers = _wanted(options)
    wanted = options.accelerator or recipe.accelerator
    name = "" if wanted == ANY else MEANT.get(wanted, (wanted,))[0]
    note = "the cluster at RAY_ADDRESS does not answer; it is assumed to have these resources"
    types, concurrent = (name,) if name else (), options.concurrent_trials or 1
    of_workers = options.min_workers_per_trial, name, options.gpus_per_worker
    return TrialResources(workers, True, 1, concurrent, types, *of_workers, note=note)


def _wanted(options: SweepOptions) -> tuple[Recipe, int]:
    """The recipe, and the number of workers that is asked for. Raises InputError for numbers that cannot be."""
    recipe, given, share = (
        find_recipe(options.model, options.recipe),
        options.workers_per_trial,
        options.gpus_per_worker,
    )
    if given < 0:
        raise InputError(f"--workers-per-trial must be at least 1, or 0 for the recipe's, got {given}")
    if (most := options.concurrent_trials) < 0:
        raise InputError(f"--concurrent-trials must be at least 1, or 0 for as many as fit, got {most}")
    if not _LEAST_SHARE <= share <= 1:
        raise InputError(f"--gpus-per-worker must be from {_LEAST_SHARE:g} to 1, got {share:g}")
    if share < 1 < given:
        raise InputError(
            f"--gpus-per-worker {share:g} puts several workers on one GPU; those of one trial cannot share it (NCCL "
            "refuses): give --workers-per-trial 1"
        )
    workers = given or (1 if share < 1 else recipe.workers)
    if not 0 <= (least := options.min_workers_per_trial) <= workers:
        raise InputError(f"--min-workers-per-trial must be from 1 to the trial's {workers} workers, or 0, got {least}")
    return recipe, workers


def concurrency(resources: TrialResources, nodes: Nodes, wanted: int = 0) -> int:
    """How many such trials run at the same time, at least one: limited by `wanted`, by the nodes that exist or can be
    started, and by the head's memory."""
    fit = _that_fit(resources, nodes)
    # On one machine cores and GPUs are the tighter limit.
    drivers = fit if nodes.local else int(min(fit, (nodes.head_memory - WARM_BYTES) // DRIVER_BYTES))
    return max(1, min(wanted or fit, fit, drivers))


def _that_fit(resources: TrialResources, nodes: Nodes) -> int:
    room = nodes.of_type(resources.accelerator_type) if resources.accelerator_type else nodes
    return room.most_at_once(resources.workers, resources.cpus_per_worker, resources.use_gpu * resources.gpu_share)


def _of_type(asked: str, workers: int, nodes: Nodes) -> tuple[str, Nodes]:
    """The GPU type to ask for (of several allowed ones that with most room), and the nodes that have it."""
    rooms = {name: nodes.of_type(name) for name in MEANT.get(asked, (asked,))}
    best = max(rooms, key=lambda name: rooms[name].most_at_once(workers, 1, 1))
    if rooms[best].largest(1) >= workers:
        return best, rooms[best]
    meant = " or ".join(rooms)
    here = "this machine" if nodes.local else "this cluster"
    plenty = max(rooms.values(), key=lambda room: room.largest(1)).largest(1)
    advice = [f"--workers-per-trial {plenty} or fewer"] if plenty else []
    others = [name for name in nodes.gpu_types if name not in rooms and nodes.of_type(name).largest(1) >= workers]
    advice += [f"--accelerator {name}" for name in others] or [f"--accelerator {ANY} for any GPU"]
    elsewhere = "" if nodes.local else f", or add a node type with {workers} {meant} to cluster.yaml"
    raise NoRoom(
        f"a trial needs {counted(workers, 'GPU')} of type {meant} on one node; {here} has {nodes}: "
        f"give {' or '.join(advice)}{elsewhere}"
    )


def _recipe_asks(recipe: Recipe) -> str:
    gpus = f" on {recipe.accelerator} GPUs" if recipe.accelerator else ""
    return f"recipe {recipe.name} has {counted(recipe.workers, 'worker')}{gpus}"


def _nothing_fits(nodes: Nodes) -> str:
    if nodes.local:
        return "this machine has neither a GPU nor a CPU to train on"
    return f"the cluster has {nodes}: start nodes with CPUs or GPUs, and join them with `ray start --address=…`"


def hardware(resources: TrialResources) -> Hardware:
    """The hardware of a trial."""
    kind = ("/".join(resources.gpu_types) or "GPU") if resources.use_gpu else "CPU"
    return Hardware(resources.accelerators, kind)
