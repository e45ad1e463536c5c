"""Whether a trial fits on the Ray cluster, and whether its nodes match this machine. A door to ray."""

import contextlib
import importlib.metadata
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mmpo_train.errors import InputError
from sweeps.cluster.connection import cluster
from sweeps.cluster.discovery import local_nodes
from sweeps.cluster.head import answers
from sweeps.cluster.nodes import Nodes, counted
from sweeps.cluster.placement import place
from sweeps.cluster.ray_folder import check_ray_folder, ray_folder
from sweeps.doctor.findings import INSTALL, Finding, fine, note, problem
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
        if running := _running_here():
            found = f"a cluster runs at {running}, but sweeps do not use it while RAY_ADDRESS is not set"
            yield note("Ray", found, f"export RAY_ADDRESS={running} to use it, or end it with `ray stop`")
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
        resources = place(options, nodes)
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
        task = ray.remote(num_cpus=0, max_retries=0)(look)
        there_only = partial(NodeAffinitySchedulingStrategy, soft=False)
        asked = {task.options(scheduling_strategy=there_only(one)).remote(sentinel.name): one for one in nodes}
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        own, seen, blind, differing = look(sentinel.name)["versions"], 0, [], []
        for reference in ready:
            try:
                said = ray.get(reference)
            except ray.exceptions.RayError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                advice = f"install this project there, at the same path: {INSTALL}"
                yield problem("nodes", f"node {asked[reference][:8]}: {lines[-1][:200]}", advice)
                continue
            seen += 1
            blind += [] if said["sees"] else [said["host"]]
            theirs = said["versions"]
            wrong = [f"{name} {theirs.get(name, 'missing')}" for name in own if theirs.get(name) != own[name]]
            differing += [f"{said['host']}: {', '.join(wrong)}"] if wrong else []
    if late:
        found = f"{len(late)} of {len(nodes)} did not answer in {NODE_SECONDS:.0f} s"
        yield note("nodes", found, "look at `ray status`")
    if differing:
        found = f"versions differ from here: {'; '.join(differing)}"
        yield problem("nodes", found, "use one environment for all nodes")
    if blind:
        found = f"{storage} of this machine does not exist on {', '.join(sorted(blind))}"
        yield problem("nodes", found, "give --storage a folder that all nodes share, or an s3:// address")
    if seen and not (late or differing or blind):
        yield fine("nodes", f"all {seen} have this machine's versions and see {storage}")


def _running_here() -> str:
    """The address of a cluster that `ray start` left running on this machine; empty if there is none."""
    file = ray_folder()[0] / _ADDRESS_FILE
    address = file.read_text().strip() if file.is_file() else ""
    return address if answers(address, 2) else ""
