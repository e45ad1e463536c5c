"""What a machine makes once, in its cache, whatever the storage."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mmpo_train.storage.manifest import verify
from mmpo_train.storage.mirror import ensure_once


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MMPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_two_storages_at_once_have_it_filled_once_and_each_holds_a_whole_copy(tmp_path):
    filled: list[Path] = []
    both = Barrier(2, timeout=10)

    def fill(staging: Path) -> None:
        filled.append(staging)
        (staging / "weights").write_text(f"made {len(filled)}")

    def make(name: str) -> str:
        folder = tmp_path / name / "models" / "tiny-1"
        both.wait()
        ensure_once(folder, fill)
        verify(folder)
        return (folder / "weights").read_text()

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(make, ("one", "two"))) == ["made 1", "made 1"]
    assert len(filled) == 1


def test_what_was_interrupted_or_is_damaged_in_the_cache_is_made_anew(tmp_path, cache):
    def interrupted(staging: Path) -> None:
        (staging / "weights").write_text("half")
        raise KeyboardInterrupt

    def whole(staging: Path) -> None:
        (staging / "weights").write_text("whole")

    with pytest.raises(KeyboardInterrupt):
        ensure_once(tmp_path / "one" / "tiny-1", interrupted)
    assert not list(tmp_path.rglob("weights"))
    ensure_once(tmp_path / "one" / "tiny-1", whole)
    [kept] = cache.rglob("weights")
    kept.write_text("changed")
    ensure_once(tmp_path / "two" / "tiny-1", whole)
    assert kept.read_text() == (tmp_path / "two" / "tiny-1" / "weights").read_text() == "whole"


def test_without_a_cache_that_can_be_written_it_is_made_in_the_storage(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not cache.is_relative_to(path))
    ensure_once(tmp_path / "one" / "tiny-1", lambda staging: (staging / "weights").write_text("whole"))
    verify(tmp_path / "one" / "tiny-1")
    assert not cache.exists()
