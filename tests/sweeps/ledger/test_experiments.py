"""Which experiment a model and its data have; real MLflow on sqlite."""

import json
import shutil
import threading

import pytest

from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.preferences import load_preferences
from mmpo_train.prepare import Inputs
from mmpo_train.sft.data import load_chats
from mmpo_train.sft.prepare import SFTInputs
from mmpo_train.sft.trial import SFTTrial
from sweeps.ledger.experiments import experiment_of, experiments_called
from sweeps.ledger.ledger import connect


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty ledger's storage, whose schema takes seconds to make."""
    folder = tmp_path_factory.mktemp("ledger")
    connect(None, folder).close()
    return folder / "mlflow.db"


@pytest.fixture
def ledger(tmp_path, database):
    (tmp_path / "runs").mkdir()
    shutil.copy(database, tmp_path / "runs" / "mlflow.db")
    opened = connect(None, tmp_path / "runs")
    yield opened
    opened.close()


@pytest.fixture
def inputs(tmp_path):
    """Makes inputs of a model and of a file, which is written with a word that tells contents apart."""

    def make(file="v1/train.jsonl", word="first", model="teamA/sft", fingerprint="a" * 64, **options):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"{word} {n}", "chosen": "yes", "rejected": "no"} for n in range(6)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = load_preferences([str(path)], **options)
        config = TrialConfig(model=str(tmp_path / model), dataset=(str(path),), model_fingerprint=fingerprint)
        return Inputs(replace(config, {"data_fingerprint": data.fingerprint}), data, tmp_path, tmp_path)

    return make


def made(ledger, one):
    return experiment_of(ledger, one, create=True)


def test_the_first_has_the_short_name_and_keeps_it(ledger, inputs):
    assert experiment_of(None, inputs()) == experiment_of(ledger, inputs()) == "sft on train.jsonl"
    assert made(ledger, inputs()) == made(ledger, inputs()) == "sft on train.jsonl"
    names = {one.name for one in ledger.store.client.search_experiments()}
    assert names == {"Default", "sft on train.jsonl"}


def test_looking_makes_nothing(ledger, inputs):
    experiment_of(ledger, inputs())
    assert [one.name for one in ledger.store.client.search_experiments()] == ["Default"]


def test_other_data_of_the_name_have_their_folder_in_it(ledger, inputs):
    first, other = inputs(), inputs("v2/train.jsonl", "second")
    assert [made(ledger, one) for one in (first, other, first, other)] == [
        "sft on train.jsonl",
        "sft on v2/train.jsonl",
    ] * 2


def test_another_model_of_the_name_has_its_folder_in_it(ledger, inputs):
    first, other = inputs(), inputs(model="teamB/sft", fingerprint="b" * 64)
    assert made(ledger, first) == "sft on train.jsonl"
    assert made(ledger, other) == "teamB/sft on train.jsonl"
    both = inputs("v2/train.jsonl", "second", "teamC/sft", "c" * 64)
    assert made(ledger, both) == "teamC/sft on v2/train.jsonl"


def test_other_content_in_the_same_place_has_a_digest_in_it(ledger, inputs):
    names = [made(ledger, inputs(word=word)) for word in ("first", "second", "third", "second", "first")]
    assert names[0] == names[4] == "sft on train.jsonl"
    assert names[1] == names[3] != names[2] and len(set(names)) == 3
    assert all(name.startswith("sft on v1/train.jsonl (") and len(name) == 30 for name in names[1:4])


def test_the_same_content_elsewhere_and_chosen_from_otherwise_is_the_same(ledger, inputs):
    assert made(ledger, inputs()) == "sft on train.jsonl"
    assert made(ledger, inputs("copies/other.jsonl", seed=7, validation_share=0.5)) == "sft on train.jsonl"


def test_instruction_tuning_has_an_experiment_of_its_own(ledger, inputs, tmp_path):
    made(ledger, inputs())
    rows = [{"prompt": f"first {n}", "completion": "yes"} for n in range(40)]
    names = []
    for place, word in (("v1", "yes"), ("v2", "no")):
        path = tmp_path / place / "train.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({**row, "completion": word}) + "\n" for row in rows))
        data = load_chats([str(path)], 10)
        trial = SFTTrial(model=str(tmp_path / "teamA/sft"), dataset=(str(path),), model_fingerprint="a" * 64)
        names.append(made(ledger, SFTInputs(trial, data, tmp_path, tmp_path)))
    assert names == ["sft on train.jsonl, instruction tuning", "sft on v2/train.jsonl, instruction tuning"]


def trial_of(ledger, one, experiment):
    """A finished trial of these inputs, as every version has logged it."""
    opened = {"kind": "opened", "timestamp_ms": 1, "experiment": experiment, "parent": "", "name": "t", "tags": {}}
    log = ledger.open_trial({**opened, "config": vars(one.config), "log10_learning_rate": 0.0}, one.config.digest)
    log.finish(1.0)
    ledger.flush(30)


def test_an_experiment_of_an_earlier_version_is_that_of_its_trials(ledger, inputs):
    """It has no tags. Another reading of the same file was in it as well; other content was, unseen, and is no more."""
    first = inputs()
    ledger.store.create_experiment("sft on train.jsonl", {})
    trial_of(ledger, first, "sft on train.jsonl")
    assert made(ledger, first) == "sft on train.jsonl"
    assert made(ledger, inputs(seed=7)) == "sft on train.jsonl"
    assert ledger.find_trial(made(ledger, first), first.config.digest).status == "finished"
    assert made(ledger, inputs("v2/train.jsonl", "second")) == "teamA/sft on v2/train.jsonl"
    assert made(ledger, inputs(model="teamB/sft", fingerprint="b" * 64)) == "teamB/sft on v1/train.jsonl"


def test_an_empty_experiment_of_an_earlier_version_is_taken(ledger, inputs):
    ledger.store.create_experiment("sft on train.jsonl", {})
    assert made(ledger, inputs("v2/train.jsonl")) == "sft on train.jsonl"


def test_drivers_that_start_together_with_other_data_do_not_share_one(ledger, inputs, tmp_path):
    subjects = [inputs(f"v{n}/train.jsonl", str(n)) for n in range(4)]
    names, start = {}, threading.Barrier(len(subjects))

    def drive(number):
        own = connect(None, tmp_path / "runs")
        start.wait()
        names[number] = made(own, subjects[number])
        own.close()

    drivers = [threading.Thread(target=drive, args=(number,)) for number in range(len(subjects))]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert len(set(names.values())) == 4 and "sft on train.jsonl" in names.values()
    assert [made(ledger, one) for one in subjects] == [names[number] for number in range(4)]


def test_the_report_finds_the_experiment_of_a_model_and_data_without_reading_them(ledger, inputs, tmp_path):
    first, other, third = inputs(), inputs("v2/train.jsonl", "second"), inputs("v3/train.jsonl", "third")
    for one in (first, other):
        made(ledger, one)
    assert experiments_called(ledger, first.config) == ["sft on train.jsonl"]
    assert experiments_called(ledger, other.config) == ["sft on v2/train.jsonl"]
    assert experiments_called(ledger, third.config) == ["sft on train.jsonl", "sft on v2/train.jsonl"]
    assert experiments_called(ledger, replace(first.config, {"model": "tiny"})) == ["tiny on train.jsonl"]
