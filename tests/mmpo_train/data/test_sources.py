"""Folders and hub datasets as sources of rows."""

import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mmpo_train.data.preferences import load_preferences
from tests.support.preference_files import assistant, everything, pair, pairs, refusal, user, write


def test_parquet_and_saved_folder_hold_the_same_data_as_json(tmp_path):
    import datasets

    rows = [
        {"prompt": f"question {i}", "chosen": [user(f"question {i}"), assistant("yes")],
         "rejected": [user(f"question {i}"), assistant("no")], "score_chosen": 1.0}
        for i in range(5)
    ]  # fmt: skip
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "pairs.parquet")
    table.save_to_disk(tmp_path / "saved")
    loaded = [
        load_preferences([source])
        for source in (
            write(tmp_path / "pairs.json", rows),
            str(tmp_path / "pairs.parquet"),
            f"{tmp_path / 'saved'}:train",
        )
    ]
    assert len({data.fingerprint for data in loaded}) == 1
    assert [example.row for example in everything(loaded[1])] == [1, 2, 3, 4, 5]


def test_saved_dataset_dict_keeps_its_splits(tmp_path):
    import datasets

    splits = {"train_prefs": pairs(3), "train_sft": pairs(9), "test_prefs": [pair(50), pair(51)]}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    saved.save_to_disk(tmp_path / "saved")
    data = load_preferences([str(tmp_path / "saved")])
    assert (len(data.train), len(data.validation)) == (3, 2)
    assert data.train[0].source == f"{tmp_path / 'saved'}:train_prefs"


def test_folder_of_files_gives_a_split_per_name(tmp_path, monkeypatch):
    """The folder is called `json`: to datasets that is a reader, and would take the files beside it too."""
    monkeypatch.chdir(tmp_path)
    write(Path("train.jsonl"), pairs(7))
    Path("json").mkdir()
    write(Path("json/train.jsonl"), pairs(4))
    write(Path("json/test.jsonl"), [pair(9)])
    data = load_preferences(["json"])
    assert (len(data.train), len(data.validation)) == (4, 1)
    assert data.validation[0].source == "json/test.jsonl"


def test_folder_without_data_says_what_it_holds(tmp_path):
    assert "(it contains nothing)" in refusal([tmp_path])
    (tmp_path / "README.md").write_text("nothing here")
    message = refusal([tmp_path])
    assert "contains no readable dataset (it contains README.md)" in message
    assert "save_to_disk" in message


def test_bad_row_in_a_folder_is_named_with_its_file(tmp_path):
    write(tmp_path / "train.jsonl", pairs(3))
    write(tmp_path / "test.jsonl", [pair(5), pair(6, chosen="")])
    message = refusal([tmp_path])
    assert f"{tmp_path / 'test.jsonl'}, line 2: chosen is empty" in message


@pytest.fixture
def two_configs(tmp_path):
    """A folder whose README names two configs, and the places of their files."""
    lines = ["---", "configs:"]
    for name in ("first", "second"):
        write(tmp_path / f"{name}.jsonl", [pair(f"{name} {n}") for n in range(4)])
        lines += [f"- config_name: {name}", f"  data_files: {name}.jsonl"]
    (tmp_path / "README.md").write_text("\n".join([*lines, "---", ""]))
    return tmp_path


def test_a_source_can_name_one_of_several_configs(two_configs):
    data = load_preferences([f"{two_configs}#second", f"{two_configs}#first:train"])
    assert {part.source for part in data.audit.parts} == {
        str(two_configs / "second.jsonl"),
        str(two_configs / "first.jsonl"),
    }
    assert len(data.train) + len(data.validation) == 8


def test_configs_are_listed_where_none_or_a_wrong_one_is_named(two_configs):
    message = refusal([two_configs])
    assert message == f"{two_configs} has several configs; name one of first, second, as in {two_configs}#first"
    assert f"{two_configs} has no config 'third'; name one of first, second" in refusal([f"{two_configs}#third"])


def test_a_folder_without_configs_says_so(tmp_path):
    write(tmp_path / "train.jsonl", pairs(3))
    assert "has no config 'en'; name one of default" in refusal([f"{tmp_path}#en"])


@pytest.fixture
def cached_dataset(tmp_path, monkeypatch):
    """Writes rows into the cache of `datasets` as acme/pairs, and goes offline as HF_HUB_OFFLINE=1 does."""
    import datasets
    import huggingface_hub

    def cache(**splits):
        held = tmp_path / "cache"
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(held))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        files = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in splits.items()}
        datasets.load_dataset("json", data_files=files)
        (info,) = held.glob("json/*/*/*/dataset_info.json")
        target = held / "acme___pairs" / "default" / "0.0.0" / ("a" * 40)
        shutil.copytree(info.parent, target)
        for file in target.glob("json-*.arrow"):
            file.rename(target / file.name.replace("json-", "pairs-", 1))

    return cache


def test_hub_dataset_drops_and_counts_the_bad_rows_that_nobody_here_can_mend(cached_dataset):
    cached_dataset(train_prefs=[pair(0), pair(1, chosen=""), pair(2, chosen="no")], test_prefs=[pair(5)])
    data = load_preferences(["acme/pairs"])
    assert [example.source for example in data.train] == ["acme/pairs:train_prefs"]
    assert data.audit.parts[0].dropped == {"empty completion": [2], "chosen equals rejected": [3]}
    assert "acme/pairs:train_prefs, row 2: chosen is empty" in refusal(["acme/pairs"], strict=True)


def test_hub_dataset_without_the_columns_is_refused(cached_dataset):
    cached_dataset(train=[{"text": "a"}, {"text": "b"}])
    message = refusal(["acme/pairs"])
    assert "no 'prompt', no 'chosen', no 'rejected'; columns: text" in message
    assert "local copy" in message


def test_unreachable_hub_is_said_quickly_with_the_way_to_a_local_copy(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs_v2").mkdir()
    start = time.monotonic()
    message = refusal(["pairs_v1"])
    assert time.monotonic() - start < 5
    assert "not a file or folder here (did you mean pairs_v2?)" in message
    assert "the hub cannot be reached (ConnectError" in message
    assert "hf download --repo-type dataset pairs_v1 --local-dir FOLDER" in message


def test_dataset_unknown_to_the_hub_is_said_to_be_so(monkeypatch):
    import huggingface_hub

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        assert "nor a dataset on the hub that this login can see" in refusal(["acme/nothing"])
    finally:
        server.shutdown()
