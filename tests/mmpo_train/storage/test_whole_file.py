"""A small file is as it was or as it is to be, whatever goes wrong in between."""

import errno
import os
import threading

import pytest

from mmpo_train.storage.whole_file import read_cache, write_cache, write_whole


def test_text_and_bytes_are_written_in_a_folder_that_is_made(tmp_path):
    write_whole(tmp_path / "a" / "b" / "text", "½\n")
    write_whole(tmp_path / "a" / "b" / "bytes", b"\xff\x00")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == b"\xc2\xbd\n"
    assert (tmp_path / "a" / "b" / "bytes").read_bytes() == b"\xff\x00"


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_former_file_and_nothing_beside_it(tmp_path, monkeypatch, broken):
    path = tmp_path / "kept"
    write_whole(path, "former")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"os.{broken}", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "former" and [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_what_is_renamed_is_on_disk_already(tmp_path, monkeypatch):
    synced = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda place: (synced.append(os.fstat(place).st_size), fsync(place)))
    monkeypatch.setattr("os.replace", lambda *paths: (synced.append("renamed"), replace(*paths)))
    write_whole(tmp_path / "file", "1234")
    assert synced[:2] == [4, "renamed"] and len(synced) == 3, "at the end the folder, in which the new name stands"


def test_a_reader_never_sees_half_of_what_several_threads_write(tmp_path):
    path, contents = tmp_path / "shared", ["a" * 300_000, "b" * 300_000]
    write_whole(path, contents[0])
    writers = [
        threading.Thread(target=lambda text=text: [write_whole(path, text) for _ in range(20)]) for text in contents
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_text())
    assert seen <= set(contents) and [one.name for one in tmp_path.iterdir()] == ["shared"]


def test_a_cache_of_which_any_byte_was_changed_or_lost_is_empty(tmp_path):
    """What is in it is made anew. A changed digit must not pass for another content."""
    path, content = tmp_path / "cache.json", {"a": "0123", "b": {"c": [1, 2]}}
    write_cache(path, content)
    assert read_cache(path) == content
    whole = path.read_bytes()
    for place in range(len(whole)):
        for changed in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            path.write_bytes(changed)
            assert read_cache(path) in ({}, content)
    path.unlink()
    assert read_cache(path) == {}
    path.write_text("[]")
    assert read_cache(path) == {}
