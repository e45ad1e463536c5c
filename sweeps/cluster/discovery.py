"""The nodes of the connected Ray cluster: those alive, and those that its autoscaler may start."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sweeps.cluster.accelerators import accelerator_name
from sweeps.cluster.nodes import HEAD_NODE, NodeKind, Nodes, nodes_of

NodeType = tuple[Mapping[str, float], int]
"""Resources of one node, and the largest number of such nodes."""

_NO_LIMIT = 1_000_000


def cluster_nodes() -> Nodes:
    """All nodes on which trials can be placed."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    types, most_nodes = node_types()
    heads = [resources for resources in alive if HEAD_NODE in resources]
    return nodes_of(alive, types, most_nodes=most_nodes, head_memory=sum(one["memory"] for one in heads))


def node_types() -> tuple[list[NodeType], int | None]:
    """The nodes that an autoscaler may start, by type and in total; nothing without an autoscaler.

    A managed service, or KubeRay, reports them to the cluster. The autoscaler of `ray up` does not: its configuration
    file is read on the head, where its process and the sweep's driver run.
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
    """The nodes that an autoscaler's configuration, such as cluster.yaml, allows. `max_workers` excludes the head."""
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
    """The configuration file of this cluster's autoscaler, if its process runs on this machine."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        given = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if given.get("gcs-address") == gcs_address and "autoscaling-config" in given:
            path = Path(given["autoscaling-config"]).expanduser()
            return path if path.is_file() else None
    return None


def local_resources() -> tuple[float, float]:
    """CPUs and GPUs of this machine, without importing torch."""
    gpus = len([name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = min(gpus, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
    return float(len(os.sched_getaffinity(0))), float(gpus)


def local_nodes() -> Nodes:
    """This machine as the only node."""
    cpus, gpus = local_resources()
    types = local_gpu_types() if gpus else ()
    return Nodes((NodeKind(cpus, gpus, types),), local=True)


def local_gpu_types() -> tuple[str, ...]:
    """The types of this machine's GPUs; empty if there is none or the driver does not report it."""
    described = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE) for path in described]
    return tuple(sorted({accelerator_name(model[1]) for model in models if model}))


def nodes_now() -> Nodes:
    """The nodes of the connected cluster, or this machine."""
    return cluster_nodes() if os.environ.get("RAY_ADDRESS") else local_nodes()
