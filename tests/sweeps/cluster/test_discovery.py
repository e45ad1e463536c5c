"""What Ray says of real raylets, and what the autoscaler's configuration says of those that may come."""

import json
import subprocess
import sys

import pytest

from sweeps.cluster import discovery as survey
from sweeps.cluster.discovery import cluster_nodes, read_node_types

L40S = {"CPU": 4, "GPU": 4, "accelerator_type:L40S": 1}
CONFIGURATION = {
    "cluster_name": "c",
    "max_workers": 5,
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": "FAKE_HEAD_ID",
    },
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "l40s": {"resources": L40S, "node_config": {}, "min_workers": 0, "max_workers": 4},
        "h100": {"resources": {"CPU": 8, "GPU": 8, "accelerator_type:H100": 1}, "node_config": {}},
    },
    "head_node_type": "head",
}


def test_an_autoscalers_configuration_says_what_may_come(tmp_path):
    """A type without a number of its own may come as often as all may."""
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(json.dumps(CONFIGURATION))  # YAML is more than JSON
    types, most = read_node_types(path)
    assert [(one.get("GPU", 0), count) for one, count in types] == [(0, 0), (4, 4), (8, 5)]
    assert most == 6


@pytest.mark.slow
def test_live_nodes_are_seen_as_they_come_and_go(monkeypatch):
    """Three raylets on this machine with GPUs that are numbers only."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    from sweeps.cluster.connection import cluster
    from sweeps.cluster.discovery import nodes_now

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray's own count of GPUs goes by it
    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        there.add_node(num_cpus=4, num_gpus=4, resources={"accelerator_type:L40S": 1})
        lost = there.add_node(num_cpus=4, num_gpus=4, resources={"accelerator_type:L40S": 1})
        monkeypatch.setenv("RAY_ADDRESS", there.address)
        with cluster(verbose=False) as nodes:
            assert ray.is_initialized() and nodes.of_type("L40S").most_at_once(4, 1, 1) == 2 and nodes.head_memory > 0
            with cluster(verbose=False):
                pass
            assert ray.is_initialized()  # the inner block used the outer one's
            there.remove_node(lost)
            there.wait_for_nodes()
            assert nodes_now().of_type("L40S").most_at_once(4, 1, 1) == 1
            assert cluster_nodes().most_nodes is None
        assert not ray.is_initialized()
    finally:
        there.shutdown()


def test_the_configuration_is_found_where_the_autoscalers_process_runs(tmp_path):
    """A process with the words of Ray's monitor; one of another cluster is not asked."""
    path = tmp_path / "cluster.yaml"
    path.write_text(json.dumps(CONFIGURATION))
    words = ["--gcs-address=10.0.0.1:6379", f"--autoscaling-config={path}"]
    monitor = subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE)
    try:
        assert survey.configuration_of("10.0.0.1:6379") == path
        assert survey.configuration_of("10.0.0.2:6379") is None
    finally:
        monitor.communicate(b"\n")
