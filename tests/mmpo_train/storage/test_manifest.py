"""Folders that appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmpo_train.storage.manifest import MANIFEST, DamagedFolder, is_whole, seal, stage, verify, write_folder


def fill(folder, text="weights"):
    (folder / "inner").mkdir()
    (folder / "a.txt").write_text(text)
    (folder / "inner" / "b.bin").write_bytes(b"\0" * 1000)


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "made", fill)
    return tmp_path / "made"


def flip(path, position=-1):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def test_a_written_folder_is_whole_and_stands_alone(folder):
    verify(folder)
    assert is_whole(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def test_manifest_holds_the_sha256_of_every_file(folder):
    listed = json.loads((folder / MANIFEST).read_text())["sha256"]
    for name, expected in listed.items():
        printed = subprocess.run(["sha256sum", folder / name], capture_output=True, text=True, check=True).stdout
        assert printed.split()[0] == expected
    assert sorted(listed) == ["a.txt", "inner/b.bin"]


@pytest.mark.parametrize("name", ["a.txt", "inner/b.bin"])
def test_one_flipped_bit_is_found_and_named(folder, name):
    flip(folder / name)
    with pytest.raises(DamagedFolder, match=f"{name} has changed since it was written"):
        verify(folder)
    assert not is_whole(folder)


def test_a_missing_file_is_found_and_named(folder):
    (folder / "a.txt").unlink()
    with pytest.raises(DamagedFolder, match=r"a\.txt is missing"):
        verify(folder)


def test_a_folder_without_its_manifest_was_never_finished(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(DamagedFolder, match="it was never finished"):
        verify(folder)


def test_a_missing_folder_is_damaged_too(tmp_path):
    assert not is_whole(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": []}', "\0\0"])
def test_an_unreadable_manifest_is_damage(folder, content):
    (folder / MANIFEST).write_text(content)
    with pytest.raises(DamagedFolder, match="is unreadable"):
        verify(folder)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_fill_leaves_nothing(tmp_path, failure):
    def fail(staging):
        fill(staging)
        raise failure

    with pytest.raises(type(failure)):
        write_folder(tmp_path / "made", fail)
    assert not list(tmp_path.iterdir())


def test_a_failing_fill_leaves_what_was_there(folder):
    def fail(staging):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        write_folder(folder, fail)
    verify(folder)
    assert (folder / "a.txt").read_text() == "weights"


def test_writing_again_replaces_the_whole_folder(folder):
    (folder / "stray.txt").write_text("from the first time")
    write_folder(folder, lambda staging: (staging / "c.txt").write_text("new"))
    verify(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["c.txt", MANIFEST]
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def test_what_a_killed_writer_left_is_not_in_the_folder_and_is_cleared_away(tmp_path):
    """A writer killed in the middle of its work, by a real SIGKILL."""
    program = (
        "import os, signal, pathlib\n"
        "from mmpo_train.storage.manifest import write_folder\n"
        "def fill(staging):\n"
        "    (staging / 'half.txt').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_folder(pathlib.Path({str(tmp_path / 'made')!r}), fill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program])
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "made").exists() and len(os.listdir(tmp_path)) == 1
    write_folder(tmp_path / "made", fill)
    assert os.listdir(tmp_path) == ["made"]
    assert not (tmp_path / "made" / "half.txt").exists()


def test_a_writer_killed_between_the_two_renames_is_recovered_from(folder):
    """The old folder has been moved aside and the new one is not there yet: absent, and the next writer succeeds."""
    folder.rename(folder.with_name(".outgoing-made"))
    assert not is_whole(folder)
    for _ in range(2):
        write_folder(folder, fill)
    verify(folder)
    assert os.listdir(folder.parent) == ["made"]


def test_several_writers_may_fill_one_staging_folder_before_it_is_sealed(tmp_path):
    """Checkpoints: every worker writes its part, worker 0 seals."""
    staging = stage(tmp_path / "made")
    (staging / "worker-0.pt").write_text("0")
    (staging / "worker-1.pt").write_text("1")
    assert not (tmp_path / "made").exists()
    seal(staging, tmp_path / "made")
    verify(tmp_path / "made")


def test_all_of_a_folder_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Otherwise a loss of power might leave a whole name with empty files."""
    synced: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        "os.fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), fsync(number))[1]
    )
    monkeypatch.setattr(Path, "rename", lambda path, to: (synced.append("renamed"), rename(path, to))[1])

    write_folder(tmp_path / "made", fill)
    before = {Path(path).name for path in synced[: synced.index("renamed")]}
    assert {"a.txt", "b.bin", "inner", ".partial-made", MANIFEST} <= before
    assert synced[-1] == str(tmp_path), "the folder in which the new name stands"
