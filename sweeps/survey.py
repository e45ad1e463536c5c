"""The nodes of the Ray cluster that is connected to: those alive, and those that its autoscaler may start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sweeps.capacity import HEAD_NODE, Nodes, nodes_of

NodeType = tuple[Mapping[str, float], int]
"""Resources of one node, and how many there may be."""


def cluster_nodes() -> Nodes:
    """Everything that trials can be placed on."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    types, most_nodes = node_types()
    heads = [resources for resources in alive if HEAD_NODE in resources]
    return nodes_of(alive, types, most_nodes=most_nodes, head_memory=sum(one["memory"] for one in heads))


def rays_accelerators() -> list[str]:
    """Every type of accelerator that Ray has a name for."""
    from ray.util import accelerators

    return [value for name, value in vars(accelerators).items() if name[0] != "_" and isinstance(value, str)]


def node_types() -> tuple[list[NodeType], int | None]:
    """What an autoscaler may start, of each type and in all; nothing where there is none.

    A managed service, or KubeRay, tells the cluster. The autoscaler of `ray up` tells nobody: its configuration is read
    where its process runs, on the head, and there a sweep's driver runs too.
    """
    import ray
    from ray._private.state import state

    told = state.get_cluster_config()
    if told is not None and told.node_group_configs:
        return [
            (dict(group.resources), group.max_count if group.max_count >= 0 else _NO_LIMIT)
            for group in told.node_group_configs
        ], None
    path = configuration_of(ray.get_runtime_context().gcs_address)
    return read_node_types(path) if path is not None else ([], None)


def read_node_types(path: Path) -> tuple[list[NodeType], int | None]:
    """The same of an autoscaler's configuration, such as cluster.yaml. Its `max_workers` does not count the head."""
    import yaml

    config = yaml.safe_load(path.read_text())
    most = config.get("max_workers")
    usual = _NO_LIMIT if most is None else most
    types = config.get("available_node_types") or {}
    found: list[NodeType] = []
    for name, one in types.items():
        own = 0 if name == config.get("head_node_type") and len(types) > 1 else usual
        found.append((one.get("resources") or {}, one.get("max_workers", own)))
    return found, None if most is None else most + 1


def configuration_of(gcs_address: str) -> Path | None:
    """The file that the autoscaler of this cluster was started with, where its process is seen."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        given = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if given.get("gcs-address") == gcs_address and "autoscaling-config" in given:
            path = Path(given["autoscaling-config"]).expanduser()
            return path if path.is_file() else None
    return None


_NO_LIMIT = 1_000_000
