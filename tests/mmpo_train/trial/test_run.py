"""Trials over an object store (moto): what one node began another one goes on with, and nothing is made twice."""

import json
import shutil
import time

import numpy as np
import pytest

from eval_workers.__main__ import main as judge
from eval_workers.answers.answering import Answering
from eval_workers.answers.generation import Generator
from eval_workers.judging import shared_verdicts
from eval_workers.online import make_segment
from eval_workers.reward_accuracy import RewardAccuracy
from eval_workers.tracking.addresses import is_there, resolve
from mmpo_train import prepare
from mmpo_train.config import replace, to_dict
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model import reference
from mmpo_train.model.folders import copy_model, local_folder
from mmpo_train.model.policy import load_model
from mmpo_train.model.reference import in_process
from mmpo_train.recipes import find_recipe
from mmpo_train.sft.trial import SFTTrial
from mmpo_train.storage import mirror
from mmpo_train.storage.manifest import write_folder
from mmpo_train.trial.checkpoint import write_trial
from mmpo_train.trial.early_stop import GO_ON, STOP, read_answer, write_answer
from mmpo_train.trial.run import run_trial
from mmpo_train.trial.segments import segment_request
from sweeps.search.instruction_tuning import _named
from sweeps.stage1_lr import main
from tests.support.standins.judge_server import JudgeServer, shortest_wins


class Lost(Exception):
    """The node is gone."""


@pytest.fixture
def on_node(bucket, tmp_path, monkeypatch):
    """A function after which this process is the node of that name; gives its storage's folder."""

    def go(name):
        monkeypatch.setenv("MMPO_CACHE", str(tmp_path / name))
        return mirror.place_of(f"{bucket}/sweep")

    return go


def prepared(config, storage):
    inputs = prepare.identify(config, storage)
    return inputs.config, prepare.materialise(inputs, in_process, lambda what, share: None)[0]


def trained(config, places, lost_after_epoch=0):
    """Step -> loss, and the checkpoints' names by epoch, of a trial that may be lost on the way."""
    losses, checkpoints = {}, {}

    def send(points, finished):
        losses.update({point.step: point.metrics["train/loss"] for point in points if "train/loss" in point.metrics})
        if finished:
            checkpoints[finished.epoch] = finished.checkpoint
            if finished.epoch == lost_after_epoch:
                raise Lost

    if lost_after_epoch:
        with pytest.raises(Lost):
            run_trial(config, places, TorchEngine, send)
    else:
        run_trial(config, places, TorchEngine, send)
    return losses, checkpoints


def moved(places, storage, was):
    """The same places on another node."""
    names = {name: mirror.name_of(path) for name, path in vars(places).items()}
    assert all(name.startswith("s3://") for name in names.values())
    was("other")
    return type(places)(**{name: mirror.place_of(text) for name, text in names.items()})


@pytest.mark.parametrize("lora_rank", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_another_node_goes_on_with_a_trial_as_if_nothing_had_happened(base_config, on_node, tmp_path, lora_rank):
    config = replace(base_config, {"epochs": 2, "lora_rank": lora_rank})
    undisturbed, _ = trained(*prepared(config, tmp_path / "plain"))
    storage = on_node("first")
    config, places = prepared(config, storage)
    began, _ = trained(config, places, lost_after_epoch=1)
    shutil.rmtree(tmp_path / "first")
    there = moved(places, storage, on_node)
    ended, checkpoints = trained(config, there)
    assert began.items() <= undisturbed.items() and ended == undisturbed
    assert checkpoints == {
        epoch: mirror.name_of(there.trial(config) / "checkpoints" / f"epoch-{epoch:04d}") for epoch in (1, 2)
    }
    [newest] = (there.trial(config) / "resume").iterdir()
    # A third node, as an evaluator would be, opens what the first one made.
    on_node("third")
    load_model(local_folder(checkpoints[1]))
    resume = mirror.place_of(checkpoints[1]).parent.parent / "resume"
    mirror.fetch_children(resume)
    assert [path.name for path in resume.iterdir()] == [newest.name], "older states were left in the store"


def test_tables_and_reference_store_are_made_once_for_all_nodes(base_config, on_node, monkeypatch):
    config, places = prepared(base_config, on_node("first"))
    for made in ("_tokenise", "build_starting_model"):
        monkeypatch.setattr(prepare, made, lambda *_: None)
    monkeypatch.setattr(reference, "score_shard", None)
    _, elsewhere = prepared(base_config, on_node("second"))
    assert elsewhere.reference != places.reference and elsewhere.reference.name == places.reference.name
    for name in ("tokens", "reference", "model"):
        one, other = (getattr(found, name) / "manifest.json" for found in (places, elsewhere))
        assert one.read_bytes() == other.read_bytes()


def test_a_model_of_ones_own_is_the_same_bytes_on_every_node(base_config, on_node, model_folder):
    _, places = prepared(base_config, on_node("first"))
    assert places.model.parent.name == "models" and places.model.name.startswith(f"{model_folder.name}-")
    there = local_folder(mirror.name_of(places.model))
    assert identical(there, model_folder)


def test_the_drivers_answer_reaches_a_worker_on_another_node(on_node, tmp_path):
    write_answer(on_node("driver") / "trials" / "abc", 1, STOP)
    assert read_answer(on_node("worker") / "trials" / "abc", 1) == STOP
    assert write_answer(on_node("next-driver") / "trials" / "abc", 1, GO_ON) == STOP
    assert read_answer(on_node("worker") / "trials" / "abc", 2) == ""


def test_a_segment_that_one_node_has_paid_for_is_paid_for_once(base_config, on_node, monkeypatch):
    """The second node answers and judges; the third has the segment, the fourth answers and verdicts alone."""
    monkeypatch.setattr(shared_verdicts, "SECONDS_UNSHARED", 0.2)
    with JudgeServer(verdict=shortest_wins) as server:
        config, places = prepared(base_config, on_node("first"))
        fields = {"objective": "on_mc_po", "judge": server.spec(), "max_completion_tokens": 12}
        request = segment_request(
            to_dict(replace(config, fields)),
            0,
            np.arange(3, 9),
            policy=places.model,
            model=places.model,
            tokens=places.tokens,
            target=places.trials / "abc" / "segments" / "segment-0001",
        )
        segments, paid = [], []
        for node in ("second", "third", "fourth"):
            cache = on_node(node) / "verdicts.sqlite"
            if node == "fourth":
                mirror.withdraw(mirror.place_of(request["target"]))
                monkeypatch.setattr(Generator, "_answer", None)  # would be called for any new answer
            make_segment(Answering(cache), request)
            segments.append((mirror.place_of(request["target"]) / "segment.parquet").read_bytes())
            paid.append(len(server.requests))
            time.sleep(1)
    assert segments[0] == segments[1] == segments[2] and paid[0] > 0 and paid == paid[:1] * 3


def test_a_checkpoint_is_judged_by_its_address_even_if_it_was_published_late(base_config, on_node, bucket, tmp_path):
    """Its node was lost before it came to that; the trial publishes it when it goes on."""
    config, places = prepared(replace(base_config, {"epochs": 1}), on_node("first"))
    _, checkpoints = trained(config, places)
    mirror.withdraw(places.trial(config) / "checkpoints" / "epoch-0001")
    trained(config, places)
    on_node("second")
    judge([checkpoints[1], "--storage", f"{bucket}/sweep", "--output", str(tmp_path / "judged")])
    [results] = (tmp_path / "judged").glob("*/results.json")
    on_node("first")
    folder = mirror.place_of(checkpoints[1])
    expected = RewardAccuracy()(str(folder), str(places.tokens), str(places.reference))["metrics"]
    assert json.loads(results.read_text()) == expected


def test_the_model_of_stage_0_is_a_starting_model_on_any_node(on_node, model_folder):
    """By the address that stage 0 prints; the recipe that it was tuned by is found with it."""
    storage = on_node("first")
    trial = SFTTrial(recipe="smollm2-135m")

    def fill(staging):
        copy_model(model_folder, staging)
        write_trial(staging, trial, epoch=2)

    checkpoint = storage / "trials" / trial.digest / "checkpoints" / "epoch-0002"
    write_folder(checkpoint, fill)
    name = mirror.name_of(_named(storage, trial, checkpoint))
    shutil.rmtree(checkpoint)
    on_node("second")
    assert name.endswith(f"/models/tiny-sft-{trial.digest[:8]}")
    assert find_recipe(name).name == "smollm2-135m" and identical(local_folder(name), model_folder)


def identical(folder, other):
    return all((folder / path.name).read_bytes() == path.read_bytes() for path in other.iterdir())


@pytest.mark.parametrize(
    ("storage", "said"),
    [("ftp://there/sweep", "expected a folder, s3://bucket/path"), ("s3://bucket/sweep", "AWS_ENDPOINT_URL")],
)
def test_a_stage_refuses_a_storage_that_it_cannot_use_before_it_starts(capsys, bucket, monkeypatch, storage, said):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as ended:
        main(["--storage", storage])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_dry_run_asks_nothing_of_the_store(capsys, on_node, bucket, monkeypatch):
    folder = on_node("first")
    monkeypatch.setattr(mirror.object_store, "_at", None)  # would be called by any access
    main(["--storage", f"{bucket}/sweep", "--dry-run", "--learning-rates", "1e-3"])
    assert "1 to train" in capsys.readouterr().out and not (folder / "models").exists()


def test_the_trackers_own_variable_names_the_ledger_where_no_option_does(tmp_path, monkeypatch):
    assert resolve(None, tmp_path).database == tmp_path / "mlflow.db" and not is_there(None, tmp_path / "none")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert resolve(None, tmp_path).uri == "http://127.0.0.1:5000" and is_there("", tmp_path / "none")
    assert resolve("https://other.example.org", tmp_path).uri == "https://other.example.org"
