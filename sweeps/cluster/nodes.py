"""The room on the nodes of a cluster, counted node by node, since the workers of a trial share one. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ACCELERATOR = "accelerator_type:"
"""Prefix of Ray's resource that names the type of a node's GPUs."""
HEAD_NODE = "node:__internal_head__"
"""Ray's resource of the head node, which no spot market takes away."""
WARM_PROCESSES = "MMPO_WARM_PROCESSES"
"""A variable; 0 makes the workers of trials train by themselves, each anew."""


@dataclass(frozen=True)
class NodeKind:
    """A group of equal nodes."""

    cpus: float
    gpus: float
    gpu_types: tuple[str, ...] = ()
    """Types of the GPUs in Ray's names; an A100 may be both A100 and A100-80G."""
    alive: int = 1
    most: int = 1
    """Largest number of such nodes that an autoscaler may run; `alive` without an autoscaler."""

    def fits(self, bundles: int, cpus: float, gpus: float) -> int:
        """How many groups of `bundles` of these CPUs and GPUs fit on one such node; a share of a GPU lies on one."""
        by_cpus = self.cpus // (bundles * cpus) if cpus else float("inf")
        on_each = int(1 / gpus + 1e-6) if 0 < gpus < 1 else 1
        by_gpus = self.gpus * on_each // (bundles * max(1, gpus)) if gpus else float("inf")
        return int(min(by_cpus, by_gpus))

    def __str__(self) -> str:
        of_type = f"{'/'.join(self.gpu_types)} " if self.gpu_types else ""
        what = counted(self.gpus, f"{of_type}GPU") if self.gpus else counted(self.cpus, "CPU")
        return f"nodes of {what} ({self.alive} alive{f', at most {self.most}' if self.most > self.alive else ''})"


@dataclass(frozen=True)
class Nodes:
    """All nodes on which trials can be placed."""

    kinds: tuple[NodeKind, ...]
    local: bool = False
    """Whether this is one machine with a Ray of our own, not a cluster at RAY_ADDRESS."""
    most_nodes: int | None = None
    """Most nodes that an autoscaler starts, over all kinds; None for no limit."""
    unknown: int = 0
    """Hosts of a list that have not joined yet, whose kind is not known."""
    head_memory: float = float("inf")
    """Memory in bytes of the head, where the drivers run."""

    @property
    def gpus(self) -> bool:
        """Whether there is a GPU, or can be."""
        return any(kind.gpus >= 1 and kind.most for kind in self.kinds)

    @property
    def total_gpus(self) -> float:
        """GPUs of all nodes that exist or can be started."""
        return sum(kind.gpus * kind.most for kind in self.kinds)

    @property
    def gpu_types(self) -> list[str]:
        """All types of GPUs."""
        return sorted({name for kind in self.kinds for name in kind.gpu_types})

    def of_type(self, gpu_type: str) -> Nodes:
        """The nodes with GPUs of this type."""
        return dataclasses.replace(self, kinds=tuple(kind for kind in self.kinds if gpu_type in kind.gpu_types))

    def most_at_once(self, bundles: int, cpus: float, gpus: float) -> int:
        """How many groups of `bundles`, each on one node, fit at most on nodes that exist or can be started."""
        to_come = sum(kind.most - kind.alive for kind in self.kinds)
        if self.most_nodes is not None:
            to_come = min(to_come, max(0, self.most_nodes - sum(kind.alive for kind in self.kinds)))
        held = 0
        for kind in sorted(self.kinds, key=lambda kind: -kind.fits(bundles, cpus, gpus)):
            new = min(kind.most - kind.alive, to_come)
            to_come -= new
            held += (kind.alive + new) * kind.fits(bundles, cpus, gpus)
        return held

    def largest(self, gpus: int) -> int:
        """How many workers with one CPU and so many GPUs fit on the largest node."""
        return max((kind.fits(1, 1, gpus) for kind in self.kinds if kind.most), default=0)

    def without(self, gpus: int, gpu_type: str = "") -> Nodes:
        """The nodes without `gpus` GPUs (of `gpu_type`, if named), taken from the nodes with the fewest GPUs first."""
        kinds = list(self.kinds)
        for _ in range(gpus):
            typed = [kind for kind in kinds if not gpu_type or gpu_type in kind.gpu_types]
            takers = [kind for kind in typed if kind.gpus >= 1 and kind.most]
            if not takers:
                return dataclasses.replace(self, kinds=tuple(kind for kind in kinds if not kind.gpus))
            kind = min(takers, key=lambda kind: (kind.gpus, -kind.alive))
            place = kinds.index(kind)
            one = dataclasses.replace(kind, gpus=kind.gpus - 1, alive=min(1, kind.alive), most=1)
            rest = dataclasses.replace(kind, alive=kind.alive - one.alive, most=kind.most - 1)
            kinds[place : place + 1] = [one, rest] if rest.most else [one]
        return dataclasses.replace(self, kinds=tuple(kinds))

    def __str__(self) -> str:
        described = [str(kind) for kind in self.kinds if kind.gpus or kind.cpus]
        return ", ".join(described) if described else "no node on which trials can run"


def nodes_of(
    alive: Iterable[Mapping[str, float]],
    types: Sequence[tuple[Mapping[str, float], int]] = (),
    *,
    most_nodes: int | None = None,
    head_memory: float = float("inf"),
) -> Nodes:
    """The nodes from Ray's resources of each live node, and the types (resources, most nodes) of an autoscaler.

    A live node belongs to a type with the same GPUs. A type without resources is unknown until its nodes join.
    """
    alive = list(alive)
    there = [_kind(resources) for resources in alive]
    workers = sum(HEAD_NODE not in resources for resources in alive)
    unknown = sum(max(0, most - workers) for resources, most in types if not _known(resources))
    kinds: list[NodeKind] = []
    for resources, most in types:  # machines of one kind may be several types: spot and on-demand
        if most and _known(resources):
            _count(kinds, dataclasses.replace(_kind(resources), alive=0, most=most))
    for kind in there:
        _count(kinds, kind)
    return Nodes(tuple(kinds), most_nodes=most_nodes, unknown=unknown, head_memory=head_memory)


def _count(kinds: list[NodeKind], new: NodeKind) -> None:
    """Add nodes to an equal group of the list, or as a new group."""
    for place, known in enumerate(kinds):
        # Ray counts the CPUs of a machine itself: they may differ from the type's although the GPUs are the same.
        if (known.gpus, known.gpu_types) == (new.gpus, new.gpu_types) and (new.gpus or known.cpus == new.cpus):
            alive = known.alive + new.alive
            most = max(known.most, alive) if new.alive else known.most + new.most
            kinds[place] = dataclasses.replace(known, cpus=new.cpus, alive=alive, most=most)
            return
    kinds.append(new)


def _known(resources: Mapping[str, float]) -> bool:
    return "CPU" in resources or "GPU" in resources


def _kind(resources: Mapping[str, float]) -> NodeKind:
    names = tuple(sorted(name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)))
    return NodeKind(resources.get("CPU", 0.0), resources.get("GPU", 0.0), names)


def counted(number: float, what: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{number:g} {what}{'' if number == 1 else 's'}"
