"""Ray's own autoscaler with its fake machines, of the node types of cluster.yaml, inside one namespace."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.standins.hosts import Host, hosts
from tests.support.workers import REPOSITORY

PORT = 6379
_HEAD = "ray.head.default"
"""What the fake provider calls the head's type."""
_ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "FAKE_HEAD_ID",
    "RAY_CLOUD_INSTANCE_ID": "FAKE_HEAD_ID",
    "RAY_NODE_TYPE_NAME": _HEAD,
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_memory_monitor_refresh_ms": "0",  # every fake machine would take all of this one's memory for its own
    # A node of 192 logical CPUs would begin with as many idle processes.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
}


class Cluster:
    """A head without GPUs whose autoscaler may start what cluster.yaml names."""

    def __init__(self, host: Host, shared: Path, config: Path) -> None:
        self.host, self.shared = host, shared
        self._config = config

    def environment(self) -> dict[str, str]:
        """Of a user's command on the head."""
        address = {"RAY_ADDRESS": f"{self.host.address}:{PORT}", "RAY_AUTH_MODE": "token"}
        return address | {"MMPO_LOGICAL_GPUS": "1", "MMPO_STORAGE": str(self.shared / "mmpo")}

    def raylets(self) -> dict[int, str]:
        """Node types of the workers by the process of their raylet."""
        found = {}
        for pid, words in self.host.processes().items():
            if "/raylet/raylet " in words:
                kept = self.host.run("bash", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ || true").splitlines()
                name = dict(line.split("=", 1) for line in kept if "=" in line).get("RAY_NODE_TYPE_NAME", "")
                if name and name != _HEAD:
                    found[pid] = name
        return found

    def training(self) -> dict[int, str]:
        """The same of nodes that have a trial's worker just now."""
        lines = self.host.run("ps", "-e", "-o", "ppid=,args=").splitlines()
        parents = {int(line.split()[0]) for line in lines if "RayTrainWorker" in line}
        return {pid: name for pid, name in self.raylets().items() if pid in parents}

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change the autoscaler's configuration under way, as `ray up --no-restart` does."""
        config = yaml.safe_load(self._config.read_text())
        edit(config)
        self._config.write_text(yaml.safe_dump(config))


def configuration(address: str, idle_seconds: float) -> dict[str, Any]:
    """cluster.yaml as its head gets it, with fake machines in place of AWS's."""
    from ray.autoscaler._private.util import prepare_config

    config = prepare_config(yaml.safe_load((REPOSITORY / "cluster.yaml").read_text()))
    types = config["available_node_types"]
    types[_HEAD] = types.pop(config["head_node_type"])
    for one in types.values():
        one["node_config"] = {}
    nothing: dict[str, Any] = {name: [] for name in config if name.endswith("_commands")}
    return (
        config
        | nothing
        | {
            "idle_timeout_minutes": idle_seconds / 60,
            "head_node_type": _HEAD,
            "auth": {},
            "file_mounts": {},
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "head_node_id": "FAKE_HEAD_ID",
                "gcs_address": f"{address}:{PORT}",
                "launch_multiple": True,
                "disable_node_updaters": True,  # there is nobody to ssh to
            },
        }
    )


@contextmanager
def autoscaled(idle_seconds: float = 20) -> Iterator[Cluster]:
    """Such a cluster without any worker; with the namespace everything of it goes."""
    with hosts(0) as made:
        host = made.user
        config = made.folder / "autoscaling.yaml"
        config.write_text(yaml.safe_dump(configuration(host.address, idle_seconds)))
        host.run("ray", "get-auth-token", "--generate")
        head = ["ray", "start", "--head", f"--node-ip-address={host.address}", f"--port={PORT}", "--num-cpus=0"]
        head += ["--num-gpus=0", "--dashboard-host=127.0.0.1", f"--autoscaling-config={config}"]
        for _ in range(4):  # Ray gives itself half a minute, which on a busy machine is too little
            started = subprocess.run(host.command(*head, **_ENVIRONMENT), capture_output=True, text=True)
            if started.returncode == 0:
                break
            host.run("ray", "stop", "--force")
        assert started.returncode == 0, started.stdout + started.stderr
        yield Cluster(host, made.shared, config)
