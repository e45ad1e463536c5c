"""Where trials will run, as it is asked before anything starts: this machine, or a cluster that may not answer."""

import os
import time

import pytest

from mmpo_train.errors import InputError
from mmpo_train.recipes import RECIPES
from sweeps.cluster import connection as cluster
from sweeps.cluster import discovery
from sweeps.cluster.nodes import HEAD_NODE, nodes_of
from sweeps.cluster.placement import NoRoom, Wish
from sweeps.cluster.ray_folder import check_ray_folder

HEAD = {HEAD_NODE: 1.0, "CPU": 0.0, "memory": 64e9}


def test_without_an_address_it_is_this_machine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(discovery, "local_resources", lambda: (8.0, 2.0))
    monkeypatch.setattr(discovery, "local_gpu_types", lambda: ("H200",))
    found = cluster.trial_resources(Wish(recipe=RECIPES["llama-3-8b"]))
    assert (found.workers, found.gpu_types, found.accelerator_type) == (2, ("H200",), "")


def test_a_cluster_that_does_not_answer_ends_the_command_within_seconds_but_not_a_dry_run(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    wish = Wish(recipe=RECIPES["smollm2-135m"])
    started = time.monotonic()
    with pytest.raises(cluster.Unreachable, match="RAY_ADDRESS=127.0.0.1:9 does not answer"):
        cluster.trial_resources(wish)
    assert "assumed to have these resources" in cluster.trial_resources(wish, dry_run=True).note
    assert time.monotonic() - started < 30


def start():
    with cluster.cluster(verbose=False):
        raise AssertionError("Ray was started")


def test_a_long_folder_for_temporary_files_is_named_before_ray_is_started(monkeypatch):
    """/ray/session_2026-01-01_00-00-00_000000_1234/sockets/plasma_store has 65 bytes: a folder of 42 is the longest."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "getpid", lambda: 1234)
    fits, longer = (f"/tmp/{'a' * length}" for length in (37, 38))
    monkeypatch.setenv("RAY_TMPDIR", fits)
    check_ray_folder()
    os.rmdir(fits)
    monkeypatch.setenv("RAY_TMPDIR", longer)
    with pytest.raises(InputError, match="would have 108 bytes, and the system takes 107; export RAY_TMPDIR=/tmp"):
        start()
    assert not os.path.exists(longer)


def test_a_ray_that_cannot_start_says_why_and_what_to_do(monkeypatch):
    """It refuses an object store of one byte."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_LOCAL_OBJECT_STORE_BYTES", 1)
    with pytest.raises(InputError, match="Ray could not be started on this machine: .* 1 bytes.*-m sweeps.doctor"):
        start()
    import ray

    assert not ray.is_initialized()


def test_hosts_of_a_list_are_waited_for_and_what_can_never_be_is_not(monkeypatch, capsys):
    """`ray up` returns when the head is there; the second look finds the first of two hosts."""
    empty, joined = (nodes_of(alive, [({}, 2)]) for alive in ([HEAD], [HEAD, {"CPU": 8.0}]))
    waited: list[float] = []
    monkeypatch.setattr(cluster, "cluster_nodes", lambda: joined)
    monkeypatch.setattr(cluster.time, "sleep", waited.append)
    wish = Wish(recipe=RECIPES["tiny"])
    assert cluster._when_hosts_are_there(wish, empty, 60.0).concurrent == 8
    assert len(waited) == 1 and capsys.readouterr().out == "waiting for 2 hosts of the cluster to join\n"
    with pytest.raises(NoRoom):
        cluster._when_hosts_are_there(wish, nodes_of([HEAD]), 60.0)
    with pytest.raises(NoRoom):
        cluster._when_hosts_are_there(wish, empty, 0.0)
    assert len(waited) == 1
