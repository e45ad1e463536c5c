"""One storage on every node, against an S3 that speaks real HTTP (moto): what is published, fetched and refused."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest

from mmpo_train.errors import InputError
from mmpo_train.storage import mirror, object_store
from mmpo_train.storage.manifest import MANIFEST, DamagedFolder, is_whole, verify, write_folder


def filled(folder, **files):
    """The folder, sealed, with these files."""

    def fill(staging):
        for name, text in files.items():
            path = staging / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    write_folder(folder, fill)
    return folder


@pytest.fixture
def storage(bucket):
    return mirror.place_of(f"{bucket}/sweep")


@pytest.fixture
def other_node(bucket, tmp_path, monkeypatch):
    """A function after which this process is another node, with nothing in its cache."""

    def move(name="node-2"):
        monkeypatch.setenv("MMPO_CACHE", str(tmp_path / name))
        return mirror.place_of(f"{bucket}/sweep")

    return move


def test_a_published_folder_is_the_same_on_another_node(storage, other_node):
    published = filled(storage / "tokens" / "abc", **{"a.json": "[1]", "below__b.bin": "x" * 100_000, "empty": ""})
    mirror.publish(published)
    manifest, name = (published / MANIFEST).read_bytes(), mirror.name_of(published)
    there = other_node()
    brought = mirror.bring(name)
    assert brought == there / "tokens" / "abc" and brought != published
    verify(brought)
    assert (brought / MANIFEST).read_bytes() == manifest
    assert (brought / "below" / "b.bin").read_text() == "x" * 100_000 and (brought / "empty").read_bytes() == b""


def test_a_file_of_several_pieces_is_put_together_as_it_was(storage, other_node, monkeypatch):
    monkeypatch.setattr(object_store, "_PIECE_BYTES", 1000)
    text = json.dumps(list(range(3000)))
    mirror.publish(filled(storage / "model", weights=text))
    assert (mirror.bring(mirror.name_of(other_node() / "model")) / "weights").read_text() == text


def test_an_upload_that_broke_off_is_not_seen(storage, other_node):
    """Everything but the manifest is there, as after a kill."""
    folder = filled(storage / "reference" / "abc", **{"train.parquet": "numbers"})
    object_store.upload(folder, ["train.parquet"], mirror.name_of(folder))
    there = other_node() / "reference" / "abc"
    mirror.fetch(there)
    mirror.fetch_children(there.parent)
    assert not there.exists()
    with pytest.raises(DamagedFolder, match="never finished"):
        verify(there)


def test_a_byte_that_changed_on_this_node_is_brought_anew(storage):
    folder = filled(storage / "tokens" / "abc", numbers="12345")
    mirror.publish(folder)
    (folder / "numbers").write_text("12845")
    mirror.fetch(folder)
    assert (folder / "numbers").read_text() == "12345" and is_whole(folder)


def test_a_byte_that_changed_in_the_store_is_refused_and_can_be_published_anew(storage, other_node):
    folder = filled(storage / "tokens" / "abc", numbers="12345")
    mirror.publish(folder)
    object_store.write(f"{mirror.name_of(folder)}/numbers", b"12845")
    there = other_node() / "tokens" / "abc"
    mirror.fetch(there)
    assert not there.exists()
    other_node("node-1")
    mirror.publish(folder)  # whoever has it, or makes it again
    other_node()
    mirror.fetch(there)
    assert (there / "numbers").read_text() == "12345"


def test_what_is_published_already_is_not_sent_again(storage, monkeypatch):
    folder = filled(storage / "tokens" / "abc", numbers="12345")
    mirror.publish(folder)
    monkeypatch.setattr(object_store, "_copy", None)  # would be called by any upload
    mirror.publish(folder)


def test_a_folder_made_again_takes_the_place_of_the_published_one(storage, other_node):
    for numbers in ("1", "2"):
        mirror.publish(filled(storage / "resume" / "epoch-0001", numbers=numbers))
    there = other_node() / "resume" / "epoch-0001"
    mirror.fetch(there)
    assert (there / "numbers").read_text() == "2"


def test_of_withdrawn_folders_nothing_is_left_for_other_nodes(storage, other_node):
    for step in ("1", "2", "3"):
        mirror.publish(filled(storage / "resume" / f"step-{step}", numbers=step))
    mirror.withdraw_others(storage / "resume" / "step-2")
    there = other_node() / "resume"
    mirror.fetch_children(there)
    assert [path.name for path in there.glob("step-*")] == ["step-2"]
    assert sorted(object_store.files_below(mirror.name_of(there))) == ["step-2/manifest.json", "step-2/numbers"]


def test_as_the_disk_fills_copies_go_that_were_not_used_for_long_and_come_back_when_needed(storage, monkeypatch):
    disk = SimpleNamespace(total=1000, free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: disk)
    hour = 3600
    ages = {"trials/a/checkpoints/epoch-0001": 3, "trials/a/resume/step-9": 2, "trials/b/checkpoints/epoch-0001": 0.9}
    folders = {
        name: filled(storage / name, numbers=name[:8]) for name in (*ages, "trials/c/checkpoints/epoch-0001", "model/x")
    }
    for name, folder in folders.items():
        if "/c/" not in name:
            mirror.publish(folder)
    for name, folder in folders.items():
        then = time.time() - ages.get(name, 9) * hour
        os.utime(folder / MANIFEST, (then, then))
    mirror.make_room()
    left = {name for name, folder in folders.items() if folder.exists()}
    assert left == set(folders) - {"trials/a/checkpoints/epoch-0001", "trials/a/resume/step-9"}
    gone = folders["trials/a/checkpoints/epoch-0001"]
    assert mirror.is_here(gone) and (gone / "numbers").read_text() == "trials/a"
    mirror.make_room()
    assert gone.exists(), "it has just been used"
    os.utime(gone / MANIFEST, (0, 0))
    disk.free = 900
    mirror.make_room()
    assert gone.exists(), "there is room"


def test_a_copy_that_another_process_removes_first_is_no_error(storage, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1000, free=100))
    folder = filled(storage / "trials" / "a" / "checkpoints" / "epoch-0001", numbers="1")
    mirror.publish(folder)
    os.utime(folder / MANIFEST, (0, 0))
    lock = mirror._lock

    def lock_after_the_other(address):
        shutil.rmtree(folder)
        return lock(address)

    monkeypatch.setattr(mirror, "_lock", lock_after_the_other)
    mirror.make_room()
    assert not folder.exists()


def test_single_files_and_unsealed_folders_travel_too(storage, other_node):
    (storage / "answers").mkdir(parents=True)
    (storage / "answers" / "epoch-0001").write_text("go on")
    mirror.publish_file(storage / "answers" / "epoch-0001")
    (storage / "tables" / "alpaca").mkdir(parents=True)
    (storage / "tables" / "alpaca" / "outputs.json").write_text("[]")
    mirror.publish_files(storage / "tables")
    there = other_node()
    for name in ("epoch-0001", "epoch-0002"):
        mirror.fetch_file(there / "answers" / name)
    assert [path.read_text() for path in (there / "answers").iterdir()] == ["go on"]
    mirror.fetch_files(there / "tables")
    assert (there / "tables" / "alpaca" / "outputs.json").read_text() == "[]"


def test_of_a_plain_folder_nothing_is_copied_or_looked_up(tmp_path, monkeypatch):
    monkeypatch.setattr(object_store, "_at", None)  # would be called by any access
    folder = filled(tmp_path / "runs" / "tokens" / "abc", numbers="1")
    (folder / "numbers").write_text("changed")
    for act in (mirror.fetch, mirror.publish, mirror.withdraw, mirror.fetch_children, mirror.check_access):
        act(folder)
    assert mirror.name_of(folder) == str(folder) and mirror.place_of(str(folder)) == folder
    assert (folder / "numbers").read_text() == "changed"


def test_a_folder_that_no_node_shares_is_refused_with_what_to_do(tmp_path, storage):
    for name in (tmp_path / "runs" / "tokens" / "abc", mirror.name_of(storage / "tokens" / "abc")):
        with pytest.raises(InputError, match="folder shared by all of them, or s3://"):
            mirror.need(name)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("ftp://host/path", "expected a folder, s3://bucket/path or gs://bucket/path"),
        ("file:///data/runs", "give the folder itself, /data/runs"),
        ("s3://", "names no bucket"),
        ("gs:///path", "names no bucket"),
        ("s3://bucket/../other", "names no bucket"),
        ("s3://bucket/path?region=eu-west-1", "AWS_REGION"),
        ("s3://key:hush@bucket/path", "belong in the environment"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_without_showing_secrets(storage, said):
    with pytest.raises(InputError) as refused:
        mirror.place_of(storage)
    assert said in str(refused.value) and "hush" not in str(refused.value)


def test_a_missing_bucket_is_refused_with_what_to_do(bucket):
    storage = mirror.place_of(f"{bucket}-other/sweep")
    with pytest.raises(InputError, match=f"--storage {bucket}-other/sweep cannot be used.*make the bucket"):
        mirror.check_access(storage)


def test_a_store_that_does_not_answer_is_refused_within_seconds(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL"):
        mirror.check_access(mirror.place_of(f"{bucket}/sweep"))


def test_without_credentials_google_storage_is_refused_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("MMPO_CACHE", str(tmp_path))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    assert mirror.place_of("gs://bucket/sweep") == tmp_path / "gs" / "bucket" / "sweep"
    with pytest.raises(InputError, match="--storage gs://bucket/sweep cannot be used.*gcloud auth"):
        mirror.check_access(mirror.place_of("gs://bucket/sweep"))


def test_access_that_works_leaves_nothing_behind(storage):
    mirror.check_access(storage)
    assert object_store.files_below(mirror.name_of(storage)) == []
