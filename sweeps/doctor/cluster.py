"""Whether a trial fits on the Ray cluster, and whether its nodes match this machine. A door to ray."""

import contextlib
import importlib.metadata
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpo_train.errors import InputError
from sweeps.cluster.connection import cluster
from sweeps.cluster.discovery import local_nodes
from sweeps.cluster.nodes import Nodes, counted
from sweeps.cluster.placement import place, wish_of
from sweeps.cluster.ray_folder import check_ray_folder, ray_folder
from sweeps.doctor.findings import Finding, fine, note, problem
from sweeps.plan.options import SweepOptions

NODE_SECONDS = 15.0
_SAME_EVERYWHERE = ("ray", "torch", "transformers", "deepspeed", "peft", "bitsandbytes")
_ADDRESS_FILE = "ray/ray_current_cluster"


def ray_cluster(options: SweepOptions) -> Iterator[Finding]:
    """The cluster at RAY_ADDRESS with its nodes, or the Ray that would be started here; and how trials fit on it."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        check_ray_folder()
        yield from _placement(options, local_nodes(), "Ray", "started on this machine by each sweep: ")
        running = _running_here()
        if running:
            yield note(
                "Ray",
                f"a cluster runs at {running}, but sweeps do not use it while RAY_ADDRESS is not set",
                f"export RAY_ADDRESS={running} to use it, or end it with `ray stop`",
            )
        return
    with cluster(verbose=False) as nodes:
        import ray

        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        yield fine("Ray", f"{address} answers, with {counted(len(alive), 'node')}: {nodes}")
        yield from _placement(options, nodes, "placement")
        yield from _on_nodes(alive, options.folder)


def look(sentinel: str) -> dict[str, Any]:
    """A node's name, its versions, and whether it sees the file. Runs on the node."""
    versions = {"python": ".".join(map(str, sys.version_info[:2]))}
    for package in _SAME_EVERYWHERE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package).partition("+")[0]
    return {"host": socket.gethostname(), "versions": versions, "sees": Path(sentinel).is_file()}


def _placement(options: SweepOptions, nodes: Nodes, subject: str, where: str = "") -> Iterator[Finding]:
    try:
        resources = place(wish_of(options), nodes)
    except InputError as error:
        yield problem(subject, str(error))
        return
    yield fine(subject, f"{where}{counted(resources.concurrent, 'trial')} at the same time, {resources} each")
    if resources.note:
        yield note(subject, resources.note)


def _on_nodes(nodes: list[str], storage: Path) -> Iterator[Finding]:
    """Whether every node has this machine's versions and sees the storage."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = storage.resolve()
    while not there.exists():
        there = there.parent
    with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-") as sentinel:
        task = ray.remote(look)
        asked = {
            task.options(
                num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(sentinel.name): node
            for node in nodes
        }
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        own, seen, blind, differing = look(sentinel.name)["versions"], 0, [], []
        for reference in ready:
            try:
                said = ray.get(reference)
            except ray.exceptions.RayError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                yield problem(
                    "nodes", f"node {asked[reference][:8]}: {lines[-1][:200]}",
                    "install this project there, at the same path: pip install -c constraints.txt -e .",
                )  # fmt: skip
                continue
            seen += 1
            blind += [] if said["sees"] else [said["host"]]
            wrong = [
                f"{name} {said['versions'].get(name, 'missing')}"
                for name in own
                if said["versions"].get(name) != own[name]
            ]
            differing += [f"{said['host']}: {', '.join(wrong)}"] if wrong else []
    if late:
        yield note(
            "nodes", f"{len(late)} of {len(nodes)} did not answer in {NODE_SECONDS:.0f} s", "look at `ray status`"
        )
    if differing:
        yield problem(
            "nodes", f"versions differ from here: {'; '.join(differing)}", "use one environment for all nodes"
        )
    if blind:
        yield problem(
            "nodes", f"{storage} of this machine does not exist on {', '.join(sorted(blind))}",
            "give --storage a folder that all nodes share, or an s3:// address",
        )  # fmt: skip
    if seen and not (late or differing or blind):
        yield fine("nodes", f"all {seen} have this machine's versions and see {storage}")


def _running_here() -> str:
    """The address of a cluster that `ray start` left running on this machine; empty if there is none."""
    try:
        address = (ray_folder()[0] / _ADDRESS_FILE).read_text().strip()
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return ""
    return address
