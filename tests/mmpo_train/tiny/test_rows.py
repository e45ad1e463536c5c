"""The embedded default's data: what they promise."""

import hashlib
import os
import statistics
import subprocess
import sys
from itertools import pairwise

import pytest

from mmpo_train.errors import InputError
from mmpo_train.tiny import rows as tiny
from mmpo_train.tiny.model import train_tokenizer

SPLITS = ("train", "validation")


def test_data_are_the_same_in_every_process():
    """Whatever PYTHONHASHSEED is: set and dict order must not leak into what is generated."""
    made = "[tiny.preference_examples('train'), tiny.preference_examples('validation'), tiny.instruction_examples()]"
    imports = "import hashlib; from mmpo_train.tiny import rows as tiny"
    program = f"{imports}; print(hashlib.sha256(repr({made}).encode()).hexdigest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(digests) == 1


def test_changed_data_need_a_new_version():
    """Trials are compared by the recipe's digest: if this fails on purpose, raise RECIPE.version and pin again."""
    rows = [tiny.preference_examples(split) for split in SPLITS]
    digest = hashlib.sha256(repr((rows, tiny.instruction_examples())).encode()).hexdigest()[:16]
    assert (tiny.RECIPE.version, digest) == (1, "cd09a0eb773f19a6")


def test_no_validation_prompt_is_trained_on():
    train, validation = ([row["prompt"] for row in tiny.preference_examples(split)] for split in SPLITS)
    demonstrated = {row["prompt"] for row in tiny.instruction_examples()}
    assert len(set(train)) == tiny.RECIPE.train_prompts
    assert len(set(validation)) == tiny.RECIPE.validation_prompts
    assert not set(validation) & (set(train) | demonstrated)


def test_unknown_split_is_refused():
    with pytest.raises(InputError, match="'test' is not 'train' or 'validation'"):
        tiny.preference_examples("test")


@pytest.mark.parametrize("split", SPLITS)
def test_chosen_is_perfect_and_rejected_is_worse(split):
    for row in tiny.preference_examples(split):
        assert tiny.judge(row["prompt"], row["chosen"]) == 1.0 > tiny.judge(row["prompt"], row["rejected"])


@pytest.mark.parametrize("split", SPLITS)
def test_ranks_are_the_judges_order_and_ties(split):
    for row in tiny.ranked_examples(split):
        assert 5 <= len(row["answers"]) <= 7
        assert row["answers"][0]["rank"] == 1 and tiny.judge(row["prompt"], row["answers"][0]["answer"]) == 1.0
        quality = [(entry["rank"], tiny.judge(row["prompt"], entry["answer"])) for entry in row["answers"]]
        for (rank, mark), (next_rank, next_mark) in pairwise(quality):
            assert (mark == next_mark and rank == next_rank) or (mark > next_mark and rank + 1 == next_rank)


def test_ranked_answers_are_mostly_seven_often_tie_and_have_one_of_rank_two():
    """Of 1024: 726 with seven, 668 with a tie."""
    ranks = [[entry["rank"] for entry in row["answers"]] for row in tiny.ranked_examples("train")]
    assert 0.65 < sum(len(row) == 7 for row in ranks) / len(ranks) < 0.75
    assert 0.5 < sum(len(set(row)) < len(row) for row in ranks) / len(ranks) < 0.75
    assert all(row[:2] == [1, 2] and row.count(2) == 1 for row in ranks)


def test_negatives_below_rank_two_fall_from_right_and_bare_to_wrong_and_sloppy():
    marks = [
        [tiny.judge(row["prompt"], entry["answer"]) for entry in row["answers"] if entry["rank"] > 2]
        for row in tiny.ranked_examples("train")
    ]
    assert {mark for row in marks for mark in row} == {0.8, 0.7, 0.4, 0.3, 0.2, 0.1}
    full = [row for row in marks if len(row) == 5]
    assert all(row[1] >= 0.7 and row[2] <= 0.4 and row[4] <= 0.2 for row in full)


def test_length_gives_nothing_away():
    """Over both splits: means within a quarter of a token, and neither is the longer one in 58% of the pairs."""
    tokenizer = train_tokenizer(tiny.instruction_examples())
    rows = [row for split in SPLITS for row in tiny.preference_examples(split)]
    chosen, rejected = ([len(tokenizer.encode(row[name])) for row in rows] for name in ("chosen", "rejected"))
    pairs = list(zip(chosen, rejected, strict=True))
    assert abs(statistics.mean(chosen) - statistics.mean(rejected)) < 0.25
    assert sum(a > b for a, b in pairs) < 0.58 * len(pairs) > sum(a < b for a, b in pairs)


def test_demonstrations_are_uneven():
    """Over half of them right, under half of them beyond reproach: there is something to learn from preferences."""
    rows = tiny.instruction_examples()[:2000]
    marks = [tiny.judge(row["prompt"], row["completion"]) for row in rows]
    assert 0.5 < sum(mark >= 0.6 for mark in marks) / len(marks) < 0.7
    assert 0.2 < sum(mark == 1.0 for mark in marks) / len(marks) < 0.4
