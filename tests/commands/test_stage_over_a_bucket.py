"""A stage over an object store (moto), on two Ray nodes that share nothing else: the head drives, the other works."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.commands import evaluation_command
from tests.support.standins.judge_server import JudgeServer
from tests.support.workers import REPOSITORY

RAY = Path(sys.executable).with_name("ray")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_node(environment, log, *arguments):
    """A Ray node in a process group of its own, once it is up."""
    command = [RAY, "start", "--block", "--disable-usage-stats", "--object-store-memory=100000000"]
    command += ["--node-ip-address=127.0.0.1", *arguments]
    with open(log, "w") as stream:
        node = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    deadline = time.monotonic() + 300
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)
    return node


@pytest.fixture
def two_nodes(bucket, tmp_path):
    """A driver's environment on the head, whose copies lie in node-1; the other node has two CPUs and node-2."""
    here = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64, "OMP_NUM_THREADS": "1"}
    port, folder = free_port(), tempfile.mkdtemp(prefix="mmpo-", dir="/tmp")  # a socket's path must be short
    nodes = []
    try:
        ports = (f"--port={port}", f"--dashboard-port={free_port()}", f"--temp-dir={folder}")
        nodes.append(start_node(here, tmp_path / "head.log", "--head", "--num-cpus=0", *ports))
        elsewhere = here | {"MMPO_CACHE": str(tmp_path / "node-2")}
        nodes.append(start_node(elsewhere, tmp_path / "worker.log", f"--address=127.0.0.1:{port}", "--num-cpus=2"))
        yield here | {"RAY_ADDRESS": f"127.0.0.1:{port}", "COLUMNS": "200"}
    finally:
        for node in reversed(nodes):
            os.killpg(node.pid, signal.SIGTERM)
        for node in nodes:
            node.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def run_stage(environment, command):
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, (run.stdout + run.stderr)[-5000:]
    return run.stdout


def ranking(printed):
    return re.findall(r"│ +\d │ +(1e-\d) │ +(0\.\d+)", printed)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_stage_needs_nothing_of_its_nodes_but_the_object_store(
    two_nodes,
    bucket,
    base_config,
    tmp_path,
    folders,  # noqa: F811
):
    """Model, tables, shards of the reference store, checkpoints and AlpacaEval's files go from node to node through the
    bucket alone; with the copies gone, the same command trains nothing and finds every number."""
    (tmp_path / "ledger").mkdir()
    with JudgeServer() as server:
        words = evaluation_command(base_config.model, base_config.dataset[0], f"{bucket}/sweep", server.spec(), folders)
        words = [word.replace("harness,alpaca,arena", "alpaca").replace("epochs=3", "epochs=1") for word in words]
        words += ["--tracking-uri", f"sqlite:///{tmp_path}/ledger/mlflow.db"]
        first = run_stage(two_nodes, words)
    trained = {path.parent.parent.name for path in (tmp_path / "node-2").rglob("trials/*/checkpoints/*")}
    assert len(trained) == 2, "the trials' workers sit on the other node"
    logged = {path.name for path in (tmp_path / "ledger" / "mlartifacts").rglob("alpaca/*") if path.is_file()}
    assert {"alpaca_eval.json", "annotations.jsonl", "outputs.json"} <= logged
    for node in ("node-1", "node-2"):
        shutil.rmtree(tmp_path / node)
    again = run_stage(two_nodes, words)
    assert "nothing to train" in again
    assert ranking(again) == ranking(first) and len(ranking(first)) == 2
