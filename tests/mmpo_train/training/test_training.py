"""A training of either kind crosses to another machine as plain values and comes back as what it was."""

import json
from pathlib import Path

import pytest

from mmpo_train.config import TrialConfig, replace
from mmpo_train.sft.trial import SFTTrial, change
from mmpo_train.training import as_plain, from_plain
from mmpo_train.trial.places import Places


@pytest.mark.parametrize(
    "trial",
    [replace(TrialConfig(), {"beta": 0.3, "dataset": "a,b"}), change(SFTTrial(), {"epochs": 3, "dataset": "a,b"})],
    ids=["preferences", "conversations"],
)
def test_plain_values_are_the_trial_and_its_folders(trial, tmp_path: Path):
    places = Places(*(tmp_path / name for name in ("model", "tokens", "reference", "unrelated", "trials")))
    assert from_plain(json.loads(json.dumps(as_plain(trial, places)))) == (trial, places)
