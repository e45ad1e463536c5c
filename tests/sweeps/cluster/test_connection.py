"""Where trials will run, as it is asked before anything starts: this machine, or a cluster that may not answer."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from unittest import mock

import psutil
import pytest

from mmpo_train.errors import InputError
from sweeps.cluster import connection as cluster
from sweeps.cluster import discovery
from sweeps.cluster.nodes import HEAD_NODE, nodes_of
from sweeps.cluster.placement import NoRoom
from sweeps.cluster.ray_folder import check_ray_folder
from sweeps.plan.options import SweepOptions
from tests.support.workers import REPOSITORY

HEAD = {HEAD_NODE: 1.0, "CPU": 0.0, "memory": 64e9}


def test_without_an_address_it_is_this_machine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(discovery, "local_resources", lambda: (8.0, 2.0))
    monkeypatch.setattr(discovery, "local_gpu_types", lambda: ("H200",))
    found = cluster.trial_resources(SweepOptions(recipe="llama-3-8b"))
    assert (found.workers, found.gpu_types, found.accelerator_type) == (2, ("H200",), "")


def test_a_cluster_that_does_not_answer_ends_the_command_within_seconds_but_not_a_dry_run(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    asked = {"recipe": "smollm2-135m"}
    started = time.monotonic()
    with pytest.raises(cluster.Unreachable, match="RAY_ADDRESS=127.0.0.1:9 does not answer"):
        cluster.trial_resources(SweepOptions(**asked))
    assert "assumed to have these resources" in cluster.trial_resources(SweepOptions(**asked, dry_run=True)).note
    assert time.monotonic() - started < 30


def start():
    with cluster.cluster(verbose=False):
        raise AssertionError("Ray was started")


def test_a_long_folder_for_temporary_files_is_named_before_ray_is_started(monkeypatch):
    """/mmpo-0/ray/session_2026-01-01_00-00-00_000000_1234/sockets/plasma_store has 72 bytes: a folder of 35 is the
    longest."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "getpid", lambda: 1234)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    fits, longer = (f"/tmp/{'a' * length}" for length in (30, 31))
    monkeypatch.setenv("RAY_TMPDIR", fits)
    check_ray_folder()
    shutil.rmtree(fits)
    monkeypatch.setenv("RAY_TMPDIR", longer)
    with pytest.raises(InputError, match="would have 108 bytes, and the system takes 107; export RAY_TMPDIR=/tmp"):
        start()
    assert not os.path.exists(longer)


def test_a_ray_that_cannot_start_says_why_and_what_to_do(monkeypatch):
    """It refuses an object store of one byte."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_LOCAL_OBJECT_STORE_BYTES", 1)
    with pytest.raises(InputError, match="Ray could not be started on this machine: .* 1 bytes.*mmpo doctor"):
        start()
    import ray

    assert not ray.is_initialized()


def test_hosts_of_a_list_are_waited_for_and_what_can_never_be_is_not(monkeypatch, capsys):
    """`ray up` returns when the head is there; the second look finds the first of two hosts."""
    empty, joined = (nodes_of(alive, [({}, 2)]) for alive in ([HEAD], [HEAD, {"CPU": 8.0}]))
    waited: list[float] = []
    monkeypatch.setattr(cluster, "cluster_nodes", lambda: joined)
    monkeypatch.setattr(cluster.time, "sleep", waited.append)
    assert cluster._when_hosts_are_there(SweepOptions(), empty, 60.0).concurrent == 8
    assert len(waited) == 1 and capsys.readouterr().out == "waiting for 2 hosts of the cluster to join\n"
    with pytest.raises(NoRoom):
        cluster._when_hosts_are_there(SweepOptions(), nodes_of([HEAD]), 60.0)
    with pytest.raises(NoRoom):
        cluster._when_hosts_are_there(SweepOptions(), empty, 0.0)
    assert len(waited) == 1


OWN_RAY = """
import os, signal, sys, psutil, ray
from pathlib import Path
from sweeps.cluster.connection import cluster
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "1"
with cluster(False):
    @ray.remote
    class Actor:
        def address(self):
            return ray.util.get_node_ip_address()
    actor = Actor.remote()
    assert ray.get(actor.address.remote()) == "127.0.0.1"
    mine = {os.getpid(), *(one.pid for one in psutil.Process().children(recursive=True))}
    sockets = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.pid in mine]
    assert len(sockets) > 5
    print("open:", [one for one in sockets if one.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")])
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    assert list(session.glob("logs/*"))
    token = Path("~/.ray/auth_token").expanduser()
    print("modes:", *(oct(path.stat().st_mode & 0o777) for path in (session.parents[1], token)))
    print("mode of authentication:", os.environ["RAY_AUTH_MODE"])
assert ray._private.ray_constants.ENABLE_RAY_CLUSTER
names = ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
print("afterwards:", *(os.environ.get(name) for name in names))
"""


@pytest.mark.parametrize("token", ["", "an old one, for all to read"])
def test_a_ray_of_our_own_listens_on_localhost_and_its_token_and_logs_are_ours_alone(tmp_path, token):
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token.replace(" ", "")), (tmp_path / ".ray").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", OWN_RAY]
    run = subprocess.run(
        command, env=environment | {"HOME": str(tmp_path)}, cwd=REPOSITORY, capture_output=True, text=True
    )
    said = run.stdout.partition("starting Ray on this machine\n")[2]
    expected = "open: []\nmodes: 0o700 0o600\nmode of authentication: token\nafterwards: 1 None\n"
    assert said == expected, run.stderr[-2000:]
    assert (tmp_path / ".ray" / "auth_token").read_text() == (token.replace(" ", "") or mock.ANY)


HEADLESS = """
import os, signal, sys, time, psutil, ray
from dataclasses import dataclass
from mmpo_train.terminal import run_program, told_by_signal
from sweeps.cluster.connection import cluster
from sweeps.cluster.head import with_last_words

@dataclass(frozen=True)
class Options:
    pass

def program(options):
    with cluster(False):
        with told_by_signal(), with_last_words(lambda: print("tidied up", flush=True)):
            if sys.argv[3] == "told":
                os.kill(os.getpid(), signal.SIGTERM)
            running = ray.remote(lambda: time.sleep(300)).remote()
            time.sleep(2)
            for one in psutil.Process().children(recursive=True):
                if sys.argv[1] in " ".join(one.cmdline()[:1]):
                    one.kill()
            try:
                if sys.argv[2] == "waits":
                    ray.get(running)
                while True:
                    ray.cluster_resources()
            except KeyboardInterrupt:
                print("tidied up", flush=True)
                raise

run_program(Options, program, "a program", [])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "does", "before", "said"),
    [
        ("gcs_server", "asks", "nothing", "Ray's head has died"),
        ("gcs_server", "waits", "nothing", "Ray's head has died"),
        ("raylet", "waits", "nothing", "Ray's head has died"),
        ("raylet", "asks", "told", "ended by SIGTERM"),
        ("gcs_server", "waits", "told", "ended by SIGTERM"),
    ],
)
def test_the_death_of_rays_head_ends_a_command_in_our_words(part, does, before, said):
    """Ray by itself ends the process after a minute without a chance to tidy up, or waits for ever. Where SIGTERM came
    first, to all processes, it is what ended the command."""
    started = time.monotonic()
    words = [sys.executable, "-c", HEADLESS, part, does, before]
    run = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert time.monotonic() - started < 50
    assert run.returncode == (143 if before == "told" else 2) and "tidied up" in run.stdout, run.stderr[-2000:]
    assert f"{said}; rerun the same command to continue from the last saved states" in " ".join(run.stderr.split())


STARTING = """
import os, signal, threading
from dataclasses import dataclass
from mmpo_train.terminal import run_program
from sweeps.cluster import connection

@dataclass(frozen=True)
class Options:
    pass

def program(options):
    begun = connection.tell

    def tell(text):
        begun(text)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    connection.tell = tell
    connection.reach(False)
    print("there", flush=True)
    signal.pause()

run_program(Options, program, "a program", [])
"""


@pytest.mark.slow
def test_sigterm_while_ray_starts_ends_a_command_in_our_words_and_leaves_no_process():
    """Ray's own handlers, which it sets as it starts, end it with status 1 or 15 and no word."""
    run = subprocess.Popen([sys.executable, "-c", STARTING], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    children: set[psutil.Process] = set()
    while run.poll() is None:
        with suppress(psutil.NoSuchProcess):
            children |= set(psutil.Process(run.pid).children(recursive=True))
        time.sleep(0.05)
    assert run.stderr and "ended by SIGTERM; rerun the same command to continue" in run.stderr.read()
    assert run.returncode == 128 + signal.SIGTERM
    assert not psutil.wait_procs(children, timeout=30)[1]
