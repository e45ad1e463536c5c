"""Ray nodes on one machine, each of which can be lost, or taken away with notice as clouds do."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Self

import psutil

from faults.engine import within

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
CPUS = 2
OWN = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_worker_prestart": "0"}
OWN |= {"PYTHONUNBUFFERED": "1"}
OWN |= {"RAY_memory_monitor_refresh_ms": "0"}  # every node would take all of this machine's memory for its own


AGENTS = ("metrics-export", "dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent")


class Machines:
    """A head without CPUs, and nodes that join and leave."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="f")  # a short one: paths of sockets are
        self.address = f"127.0.0.1:{_free_port()}"
        self.environment = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token"}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        """Ray's name of a node -> its `ray start`."""

    def __enter__(self) -> Self:
        """Returns when the head and two nodes are there."""
        try:
            self._begin()
        except BaseException:  # Ctrl-C too: no raylet is left behind
            self.end()
            raise
        return self

    def _begin(self) -> None:
        host, _, port = self.address.partition(":")
        head = ["--head", f"--node-ip-address={host}", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        self._start(*head, f"--temp-dir={self.folder}")
        for _ in range(2):
            self.join()

    def end(self) -> None:
        """All nodes are lost."""
        for node in list(self.nodes):
            self.lose(node)

    def __exit__(self, *_: object) -> None:
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *words: str) -> None:
        """Returns when the node is there. On a busy machine Ray may give up: then it is started again."""
        for _ in range(4):
            name = secrets.token_hex(28)
            environment = os.environ | OWN | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": name}
            # Without ports of its own a raylet waits 15 s for its agents to say theirs.
            command = [*RAY, "start", "--block", *words, *(f"--{of}-port={_free_port()}" for of in AGENTS)]
            with open(f"{self.folder}/{name}", "w") as log:
                self.nodes[name] = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            within(120, "no node", partial(self._is_there_or_gone, name))
            if self.nodes[name].poll() is None:
                return
            self.lose(name)
        raise RuntimeError(Path(f"{self.folder}/{name}").read_text()[-1000:])

    def _is_there_or_gone(self, node: str) -> bool:
        said = Path(f"{self.folder}/{node}").read_text()
        return "Ray runtime started" in said or self.nodes[node].poll() is not None

    def join(self) -> None:
        """Start another node."""
        self._start(f"--address={self.address}", f"--num-cpus={CPUS}")

    def of(self, process: psutil.Process | None) -> str | None:
        """The node of a process."""
        for node, start in self.nodes.items():
            if process is not None and psutil.Process(start.pid) in process.parents():
                return node
        return None

    def has_workers(self, node: str) -> bool:
        """Whether trials train on it."""
        below = psutil.Process(self.nodes[node].pid).children(recursive=True)
        return any("ray::RayTrainWorker" in " ".join(_words(one)[:1]) for one in below)

    def announce(self, node: str, seconds: int) -> None:
        """What Ray's autoscaler does when a cloud says that it takes the node away after so many seconds."""
        words = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        words += ["--address", self.address, "--deadline-remaining-seconds", str(seconds)]
        subprocess.run([*RAY, "drain-node", *words], check=True, capture_output=True, env=os.environ | OWN)

    def lose(self, node: str) -> None:
        """SIGKILL to all its processes."""
        start = self.nodes.pop(node)
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
            for one in [*psutil.Process(start.pid).children(recursive=True), psutil.Process(start.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        start.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
