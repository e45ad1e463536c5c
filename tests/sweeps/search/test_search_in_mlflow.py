"""What a person finds in MLflow after a stage, besides runs: data, models of checkpoints, and the alias `chosen`."""

from collections.abc import Iterator
from typing import Any

import pytest

from eval_workers.tracking.models import models_of, versions_of
from sweeps import stage1_lr, stage2_beta
from sweeps.ledger.chosen import ALIAS, REGISTERED
from sweeps.ledger.ledger import connect
from tests.support.search import Search

RATES = ("--learning-rates", "1e-4", "5e-5")
EPOCHS = ("--set", "epochs=2")


@pytest.fixture
def store(search: Search) -> Iterator[Any]:
    """MLflow, after stage 1 of two learning rates, of which 1e-4 wins by rule."""
    search(stage1_lr, *RATES, *EPOCHS)
    ledger = connect(None, search.storage)
    yield ledger.store
    ledger.close()


def stage_of(search: Search) -> Any:
    return search.child("stage1_lr", "stage1_lr mmpo")


def registered(search: Search, store: Any) -> Any:
    return store.client.get_registered_model(stage_of(search).data.tags[REGISTERED])


def move(search: Search, store: Any, name: str) -> None:
    """As a person does in MLflow's pages: the alias to the version of this run."""
    model, run_id = registered(search, store).name, search.child("stage1_lr", name).info.run_id
    [version] = [one.version for one in versions_of(store, model) if one.run_id == run_id]
    store.client.set_registered_model_alias(model, ALIAS, version)


def chosen(search: Search, store: Any) -> str:
    """Name of the run whose version has the alias."""
    model = registered(search, store)
    version = store.client.get_model_version(model.name, model.aliases[ALIAS])
    return str(store.client.get_run(version.run_id).info.run_name)


def everything(search: Search, store: Any) -> dict[str, Any]:
    """Data, models and versions of all runs, and the alias."""
    runs = [search.child("stage1_lr", name) for name in ("lr=1e-4", "lr=5e-5")]
    found = {run.info.run_name: models_of(store, run.info.experiment_id, run.info.run_id) for run in runs}
    shown = {run.info.run_name: sorted(one.model_id for one in run.outputs.model_outputs) for run in runs}
    inputs = [(one.dataset.digest, one.tags[0].value) for one in stage_of(search).inputs.dataset_inputs]
    model = registered(search, store)
    versions = sorted((one.run_id, one.tags["epoch"]) for one in versions_of(store, model.name))
    metrics = {name: {epoch: len(one.metrics) for epoch, one in own.items()} for name, own in found.items()}
    ids = {name: [one.model_id for one in own.values()] for name, own in found.items()}
    return {"models": ids, "shown": shown, "metrics": metrics, "inputs": inputs, "versions": versions} | {
        "alias": dict(model.aliases)
    }


def test_runs_list_their_data_with_digest_and_split(search, store):
    of_stage, of_trial = stage_of(search).inputs.dataset_inputs, search.child("stage1_lr", "lr=1e-4").inputs
    fingerprint = search.child("stage1_lr", "lr=1e-4").data.params["data_fingerprint"]
    for one, split in zip(of_stage, ("train", "validation"), strict=True):
        assert (one.dataset.name, one.dataset.digest) == ("tiny", f"{fingerprint[:12]}-{split}")
        assert [tag.value for tag in one.tags] == [split] and '"num_rows": ' in one.dataset.profile
    assert [one.dataset for one in of_trial.dataset_inputs] == [one.dataset for one in of_stage]


def test_every_judged_checkpoint_is_a_model_with_its_path_and_numbers(search, store):
    run = search.child("stage1_lr", "lr=1e-4")
    models = models_of(store, run.info.experiment_id, run.info.run_id)
    assert sorted(models) == [1, 2]
    for epoch, model in models.items():
        assert (str(model.status), model.name) == ("READY", f"lr=1e-4, epoch {epoch}")
        assert model.tags["checkpoint"].endswith(f"/epoch-{epoch:04d}") and model.params["learning_rate"] == "0.0001"
        numbers = {one.key: (one.value, one.step) for one in model.metrics}
        assert numbers == {name: (run.data.metrics[name], epoch) for name in numbers} and len(numbers) == 3
        points = store.client.get_metric_history(run.info.run_id, "validation/reward_accuracy")
        assert sorted(one.step for one in points) == [1, 2], "a model's metrics are the run's own, once"
    assert {one.model_id for one in run.outputs.model_outputs} == {one.model_id for one in models.values()}


def test_the_same_command_again_and_a_lost_answer_add_nothing(search, store, monkeypatch):
    before = everything(search, store)
    assert [len(before[name]) for name in ("models", "inputs", "versions")] == [2, 2, 2]
    search(stage1_lr, *RATES, *EPOCHS)
    assert everything(search, store) == before and not search.trained


def test_a_person_who_moves_the_alias_chooses_for_the_next_stage(search, store):
    assert chosen(search, store) == "lr=1e-4"
    move(search, store, "lr=5e-5")
    printed = search(stage2_beta, *EPOCHS, "--dry-run")
    assert "learning rate 5e-5: chosen by a person in run lr=5e-5" in printed and "instead of 1e-4 by rule" in printed
    assert "run lr=5e-5 was chosen by a person" in search(stage1_lr, *RATES, *EPOCHS)
    assert chosen(search, store) == "lr=5e-5", "the program leaves what a person moved"
    move(search, store, "lr=1e-4")
    assert "learning rate 1e-4: by rule" in search(stage2_beta, *EPOCHS, "--dry-run")


def test_the_alias_follows_a_persons_tag_and_both_must_agree(search, store, capsys):
    other = search.child("stage1_lr", "lr=5e-5")
    search.tag(other, "winner", "person")
    search(stage1_lr, *RATES, *EPOCHS)
    assert chosen(search, store) == "lr=5e-5"
    move(search, store, "lr=1e-4")
    error = search.fails(capsys, stage2_beta, *EPOCHS)
    assert "lr=1e-4" in error and "lr=5e-5" in error and "or the alias chosen that a person moved" in error
    store.client.delete_tag(other.info.run_id, "winner")
    store.client.delete_registered_model_alias(registered(search, store).name, ALIAS)
    assert "learning rate 1e-4: by rule" in search(stage2_beta, *EPOCHS, "--dry-run")
    search(stage1_lr, *RATES, *EPOCHS)
    assert chosen(search, store) == "lr=1e-4"


def test_a_kill_while_the_program_moves_the_alias_is_no_choice_of_a_person(search, store, monkeypatch):
    search.tag(search.child("stage1_lr", "lr=5e-5"), "winner", "person")
    ledger = connect(None, search.storage)
    client = ledger.store.client
    ledger.close()
    monkeypatch.setattr(type(client), "set_registered_model_alias", lambda *_: 1 / 0)
    search(stage1_lr, *RATES, *EPOCHS)
    monkeypatch.undo()
    store.client.delete_tag(search.child("stage1_lr", "lr=5e-5").info.run_id, "winner")
    assert chosen(search, store) == "lr=1e-4"
    assert "learning rate 1e-4: by rule" in search(stage2_beta, *EPOCHS, "--dry-run")


def test_an_alias_on_a_run_of_another_stage_is_refused(search, store, capsys):
    run_id = store.client.create_run(stage_of(search).info.experiment_id).info.run_id
    name = registered(search, store).name
    version = store.client.create_model_version(name, "elsewhere", run_id, await_creation_for=0).version
    store.client.set_registered_model_alias(name, ALIAS, version)
    assert "which is not below stage1_lr mmpo" in search.fails(capsys, stage2_beta, *EPOCHS)
