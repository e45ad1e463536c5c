"""From what a person named to what trials read: which fields change the data, and what the token tables hold."""

import json

import numpy as np
import pytest

from mmpo_train.config import replace
from mmpo_train.data.tokens import read_questions, read_table
from mmpo_train.model.reference import in_process
from mmpo_train.prepare import identify, materialise


@pytest.fixture(scope="module")
def ranked(base_config, tmp_path_factory):
    """Forty prompts with 7 and 4 answers by turns, of falling rank; and where to store things."""
    folder = tmp_path_factory.mktemp("ranked")
    rows = [
        {
            "prompt": f"Add {number} and 3.",
            "completions": [f"{number} plus 3 is {number + 3 + place}." for place in range(4 if number % 2 else 7)],
            "ranks": list(range(1, (4 if number % 2 else 7) + 1)),
        }
        for number in range(40)
    ]
    (folder / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(base_config, {"dataset": (str(folder / "ranked.jsonl"),)}), folder / "storage"


def fingerprint(ranked, **values):
    config, storage = ranked
    return identify(replace(config, values), storage).config.data_fingerprint


def test_the_trials_seed_leaves_the_data_alone(ranked):
    assert fingerprint(ranked, seed=7) == fingerprint(ranked) == fingerprint(ranked, holdout_seed=42)


@pytest.mark.parametrize("values", [{"holdout_seed": 7}, {"negatives_from_rank": 2}, {"worst_negatives": 1}])
def test_what_changes_the_data_changes_the_fingerprint_and_so_the_digest(ranked, values):
    config, storage = ranked
    one, other = (identify(replace(config, given), storage).config for given in ({}, values))
    assert one.data_fingerprint != other.data_fingerprint and one.digest != other.digest


def test_train_tables_hold_all_completions_and_validation_tables_pairs(ranked):
    """Rank 2 is left out: six completions and three by turns; a tenth of forty prompts is held out."""
    config, storage = ranked
    inputs = identify(config, storage)
    places, counts = materialise(inputs, in_process, lambda what, share: None)
    train, validation = (read_table(places.tokens, split) for split in ("train", "validation"))
    assert [len(row) for row in train.completions] == [len(example.completions) for example in inputs.data.train]
    assert {len(row) for row in train.completions} == {3, 6}
    assert {len(row) for row in validation.completions} == {2} and counts["validation"].completions == 8
    assert read_questions(places.tokens, "train") == [example.prompt[0].content for example in inputs.data.train]
    assert len(read_questions(places.tokens, "validation")) == 4


def test_noise_is_for_training_only_and_has_tables_of_its_own(ranked):
    config, storage = ranked
    tables = []
    for noise in ("none", "only"):
        inputs = identify(replace(config, {"noise_candidate": noise}), storage)
        places, _ = materialise(inputs, in_process, lambda what, share: None)
        tables.append([read_table(places.tokens, split) for split in ("train", "validation")])
    (plain, plain_validation), (noisy, noisy_validation) = tables
    assert all((np.sort(chosen) == np.sort(noise)).all() for chosen, noise in noisy.completions)
    assert [row[0].tolist() for row in noisy.completions] == [row[0].tolist() for row in plain.completions]
    for one, other in zip(plain_validation.completions, noisy_validation.completions, strict=True):
        assert [ids.tolist() for ids in one] == [ids.tolist() for ids in other]
