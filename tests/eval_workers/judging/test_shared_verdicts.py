"""Verdicts exchanged between nodes through an S3 that speaks real HTTP (moto): none is paid for twice."""

import time

import pytest

from eval_workers.judging import shared_verdicts
from eval_workers.judging.verdicts import VerdictCache
from mmpo_train.storage import mirror


@pytest.fixture
def cache_of(bucket, tmp_path, monkeypatch):
    """A function that opens a node's cache of the same storage."""

    def open_cache(node):
        monkeypatch.setenv("MMPO_CACHE", str(tmp_path / node))
        return VerdictCache(mirror.place_of(f"{bucket}/sweep") / "verdicts.sqlite")

    return open_cache


def never_asked():
    raise AssertionError("paid for twice")


def test_a_node_finds_the_verdicts_that_a_lost_one_had_shared(cache_of, monkeypatch):
    monkeypatch.setattr(shared_verdicts, "SECONDS_UNSHARED", 0.2)
    lost = cache_of("node-1")
    keys = [f"{number:064x}" for number in range(20)]
    for number, key in enumerate(keys):
        assert lost.once(key, "judge", lambda number=number: ("ab"[number % 2], f"reply {number}"))
    time.sleep(1.5)  # it is not closed: it is lost
    other = cache_of("node-2")
    assert [other.once(key, "judge", never_asked) for key in keys] == ["a", "b"] * 10


def test_what_was_not_shared_in_time_is_shared_by_the_nodes_next_process(cache_of):
    killed = cache_of("node-1")
    killed.keep("a" * 64, "tie", "judge", "reply")
    killed._shared._open = False  # as after a kill: its timer never comes
    assert cache_of("node-2").recall("a" * 64) is None
    cache_of("node-1").close()
    assert cache_of("node-2").recall("a" * 64) == "tie"


def test_closing_a_cache_shares_what_is_left(cache_of):
    first = cache_of("node-1")
    first.keep("b" * 64, "a", "judge", "reply")
    first.close()
    assert cache_of("node-2").recall("b" * 64) == "a"


def test_of_two_verdicts_on_one_question_each_node_stays_with_its_own(cache_of):
    one, two = cache_of("node-1"), cache_of("node-2")
    one.keep("c" * 64, "a", "judge", "reply")
    two.keep("c" * 64, "b", "judge", "reply")
    for cache in (one, two):
        cache.close()
    assert [cache_of(node).recall("c" * 64) for node in ("node-1", "node-2")] == ["a", "b"]


def test_verdicts_in_a_plain_folder_are_kept_without_any_exchange(tmp_path):
    cache = VerdictCache(tmp_path / "verdicts.sqlite")
    cache.keep("d" * 64, "a", "judge", "reply")
    assert cache._shared is None and cache.recall("d" * 64) == "a"
