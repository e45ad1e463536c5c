"""What a source string names."""

import pytest

from mmpo_train.data.addresses import choose_splits, split_address
from mmpo_train.data.preferences import load_preferences
from mmpo_train.errors import InputError
from tests.support.preference_files import everything, pairs, refusal, write


@pytest.mark.parametrize(
    "given, expected",
    [
        ("owner/name", ("owner/name", None, None, None)),
        ("owner/name:train_prefs:test_prefs", ("owner/name", None, "train_prefs", "test_prefs")),
        ("owner/name::test", ("owner/name", None, None, "test")),
        ("owner/name#en", ("owner/name", "en", None, None)),
        ("owner/name#en:train:test", ("owner/name", "en", "train", "test")),
        ("missing/pairs.json:train", ("missing/pairs.json", None, "train", None)),
        ("s3://bucket/pairs.jsonl", ("s3://bucket/pairs.jsonl", None, None, None)),
        ("s3://bucket/pairs.jsonl.gz:train:test", ("s3://bucket/pairs.jsonl.gz", None, "train", "test")),
        ("http://host:8080/pairs.jsonl", ("http://host:8080/pairs.jsonl", None, None, None)),
    ],
)
def test_source_is_an_address_a_config_and_up_to_two_splits(given, expected):
    assert split_address(given) == expected


def test_path_with_a_hash_is_a_path_and_behind_a_folder_it_names_a_config(tmp_path):
    path = write(tmp_path / "c#.json", pairs(3))
    assert split_address(f"{path}:train") == (path, None, "train", None)
    assert split_address(f"{tmp_path}#one:train") == (str(tmp_path), "one", "train", None)
    (tmp_path / "a#b").mkdir()
    assert split_address(f"{tmp_path}/a#b") == (f"{tmp_path}/a#b", None, None, None)
    assert split_address(f"{tmp_path}/a#b#one") == (f"{tmp_path}/a#b", "one", None, None)


def test_a_file_has_no_configs(tmp_path):
    path = write(tmp_path / "pairs.json", pairs(3))
    assert "has no configs" in refusal([f"{path}#one"])
    assert "tiny has no configs" in refusal(["tiny#one"])


def test_path_with_a_colon_is_a_path(tmp_path):
    path = write(tmp_path / "12:30.json", pairs(3))
    assert split_address(path) == (path, None, None, None)
    assert split_address(f"{path}:train") == (path, None, "train", None)
    assert len(everything(load_preferences([f"{path}:train"]))) == 3


@pytest.mark.parametrize(
    "names, asked, expected",
    [
        (["train_sft", "train_prefs", "train", "test_prefs"], (None, None), ("train_prefs", "test_prefs")),
        (["train", "test", "validation"], (None, None), ("train", "validation")),
        (["en"], (None, None), ("en", None)),
        (["train", "test"], ("test", None), ("test", None)),
        (["en", "eval"], (None, "eval"), ("en", "eval")),
    ],
)
def test_splits_not_named_are_the_customary_ones(names, asked, expected):
    assert choose_splits("owner/name", names, *asked) == expected


def test_several_train_splits_are_never_merged():
    with pytest.raises(InputError, match="the split to train on must be named.*owner/name has: helpful, harmless"):
        choose_splits("owner/name", ["helpful", "harmless"], None, None)


def test_unknown_split_lists_those_that_exist():
    with pytest.raises(InputError, match="no split 'train_pref'; did you mean 'train_prefs'.*has: train_prefs, test"):
        choose_splits("owner/name", ["train_prefs", "test"], "train_pref", None)


@pytest.mark.parametrize("asked", [("train", "train"), (None, "train")])
def test_one_split_cannot_be_both_sides(asked):
    with pytest.raises(InputError, match="both train and validation"):
        choose_splits("pairs.json", ["train"], *asked)


def test_missing_file_suggests_near_names(tmp_path):
    write(tmp_path / "pairs.json", pairs(2))
    message = refusal([tmp_path / "pair.json"])
    assert f"no file or folder {tmp_path / 'pair.json'} (did you mean {tmp_path / 'pairs.json'}?)" in message
    assert "there is no folder" in refusal([tmp_path / "nowhere" / "pairs.json"])
