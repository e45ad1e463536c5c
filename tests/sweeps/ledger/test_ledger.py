"""The runs of trials."""

import json
import os

import pytest

from mmpo_train.config import from_dict, replace
from mmpo_train.errors import InputError
from mmpo_train.events import Point
from sweeps.ledger.journal import TrialTaken, read_entries
from sweeps.ledger.ledger import connect
from tests.support.ledger import CONFIG, EXPERIMENT, LOSS, find, history, losses, open_stage, runs_of


def test_a_finished_trial_is_found_with_all_that_was_logged(ledger, storage):
    assert ledger.find_trial(EXPERIMENT, CONFIG.digest) is None
    stage = open_stage(ledger)
    trial = stage.open_trial(CONFIG, "lr=5e-4", {"sweep.label": "5e-4"})
    trial.points(losses(1, 3))
    trial.evaluated(1, {"validation/reward_accuracy": 0.5, "validation/margin": float("inf")}, [1, 0], "ckpt/1")
    trial.evaluated(2, {"validation/reward_accuracy": 1.0}, [1, 1], "ckpt/2")
    trial.finish(12.5)
    found = find(ledger)
    assert (found.status, found.name, found.seconds, found.reason) == ("finished", "lr=5e-4", 12.5, "")
    assert from_dict(found.config) == CONFIG
    assert found.params["learning_rate"] == "0.0005"
    assert found.params["log10_learning_rate"] == "-3.301"
    assert found.params["lora_targets"].startswith("q_proj,k_proj")
    assert [(e.epoch, e.correct, e.checkpoint) for e in found.evaluations] == [
        (1, (1, 0), "ckpt/1"),
        (2, (1, 1), "ckpt/2"),
    ]
    assert found.evaluations[0].metrics == {"validation/reward_accuracy": 0.5, "validation/margin": None}
    assert found.curve(LOSS) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert found.curve("validation/reward_accuracy") == [(1, 0.5), (2, 1.0)]
    assert found.curve("validation/margin") == []
    run = ledger.store.client.get_run(found.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == stage.run_id
    assert run.data.tags["sweep.label"] == "5e-4"
    environment = storage / "mlartifacts" / found.run_id / "artifacts" / "environment.json"
    assert "mlflow" in json.loads(environment.read_text())["packages"]
    assert ledger.read_trial(found.run_id) == found
    with pytest.raises(InputError, match="answers, and does not have it: .*0123456789.*copy the id of a run"):
        ledger.read_trial("0123456789")


def test_a_run_deleted_by_a_person_is_not_brought_back(ledger):
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    trial.finish(1)
    ledger.flush(30)
    ledger.store.client.delete_run(trial.run_id)
    assert ledger.find_trial(EXPERIMENT, CONFIG.digest) is None


def test_what_has_judged_an_epoch_is_known_after_an_interruption(ledger):
    stage = open_stage(ledger)
    trial = stage.open_trial(CONFIG, "lr=5e-4", {})
    trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
    trial.judged_by("harness", 1, {"harness/piqa": 0.25}, {})
    trial.fail("interrupted")
    again = stage.open_trial(CONFIG, "lr=5e-4", {})
    assert (again.judged(1), again.judged(2)) == ({"reward", "harness"}, set())
    assert (again.reward_accuracy(1), again.reward_accuracy(2)) == (0.5, None)


def test_a_trial_belongs_to_one_driver_at_a_time(ledger, storage):
    other = connect(None, storage)
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    for driver in (other, ledger):
        with pytest.raises(TrialTaken, match=f"is being run by process {os.getpid()} "):
            open_stage(driver).open_trial(CONFIG, "lr=5e-4", {})
    trial.fail("out of memory")
    ledger.flush(30)
    open_stage(other).open_trial(CONFIG, "lr=5e-4", {}).finish(1)
    assert find(other).status == "finished"
    other.close()


def test_a_failed_trial_is_tried_again_at_once_by_its_own_driver(ledger):
    stage = open_stage(ledger)
    for attempt in range(3):
        trial = stage.open_trial(CONFIG, "lr=5e-4", {})
        trial.points(losses(1, 3 + attempt))
        trial.fail(f"attempt {attempt} broke")
    found = find(ledger)
    assert (found.status, found.reason) == ("failed", "attempt 2 broke")
    assert len(runs_of(ledger)) == 1
    assert len(history(ledger, found.run_id)) == 5
    stage.open_trial(CONFIG, "lr=5e-4", {}).finish(1)
    assert find(ledger).reason == ""


def test_divergence_is_a_result_and_no_infinity_is_stored(ledger, storage):
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    trial.points([Point(1, 1_001, {LOSS: 0.7}), Point(2, 1_002, {LOSS: float("inf"), "training/norm": float("nan")})])
    trial.diverged("training/loss was inf at step 2")
    found = find(ledger)
    assert (found.status, found.reason) == ("diverged", "training/loss was inf at step 2")
    assert ledger.store.client.get_run(found.run_id).info.status == "FAILED"
    assert found.curve(LOSS) == [(1, 0.7)]
    assert found.curve("training/norm") == []
    entries = read_entries(storage / "trials" / CONFIG.digest / "points.jsonl")
    assert [e["metrics"] for e in entries if e["kind"] == "point"][1] == {LOSS: None, "training/norm": None}


def test_the_oldest_complete_run_counts_and_the_others_are_tagged(ledger):
    """Four runs of one trial: running (oldest), diverged, finished, failed. The diverged is the oldest complete."""
    client, experiment_id = ledger.store.client, ledger.store.experiment_id(EXPERIMENT)
    made = []
    for start, state in enumerate(("running", "diverged", "finished", "failed")):
        tags = {"trial.digest": CONFIG.digest, "trial.state": state}
        made.append(client.create_run(experiment_id, 1_000 + start, tags, state).info.run_id)
    assert find(ledger).run_id == made[1]
    tagged = {run.info.run_id: run.data.tags.get("duplicate_of") for run in runs_of(ledger)}
    assert tagged == {made[0]: made[1], made[1]: None, made[2]: made[1], made[3]: made[1]}


def test_a_run_of_another_storage_gets_none_of_our_points(ledger):
    """Somebody else's unfinished run of the same trial, on a shared server: there is no journal of it here."""
    client, experiment_id = ledger.store.client, ledger.store.experiment_id(EXPERIMENT)
    tags = {"trial.digest": CONFIG.digest, "trial.state": "running", "trial.journal": "theirs"}
    theirs = client.create_run(experiment_id, 1_000, tags, "theirs").info.run_id
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 3))
    trial.finish(1)
    found = find(ledger)
    assert found.run_id != theirs
    assert history(ledger, theirs) == []


def test_params_that_change_on_resume_become_a_tag(ledger):
    stage = open_stage(ledger)
    stage.open_trial(CONFIG, "lr=5e-4", {}).fail("out of memory")
    trial = stage.open_trial(replace(CONFIG, {"tokens_per_pass": 4096}), "lr=5e-4", {})
    trial.finish(1)
    ledger.flush(30)
    run = ledger.store.client.get_run(trial.run_id)
    assert run.data.params["tokens_per_pass"] == "0"
    assert run.data.tags["changed_on_resume"] == "tokens_per_pass: 0 -> 4096"


def test_a_metric_name_mlflow_would_refuse_is_refused_before_it_is_journaled(ledger):
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    with pytest.raises(ValueError, match="metric name 'acc,none'"):
        trial.points([Point(1, 1_001, {"acc,none": 0.5})])
    with pytest.raises(ValueError, match="metric name '5%'"):
        trial.evaluated(1, {"5%": 0.5}, [1], "ckpt/1")
    trial.points(losses(1, 1))
    trial.finish(1)
    assert find(ledger).evaluations == ()


def test_no_secret_reaches_a_param_a_tag_or_an_artifact(ledger, storage):
    config = replace(CONFIG, {"model": "https://ana:hunter2@host/model"})
    trial = open_stage(ledger).open_trial(config, "lr=5e-4", {})
    trial.fail("GET https://ana:hunter2@host/model?token=hunter2 failed")
    found = find(ledger, config)
    assert found.params["model"] == "https://***@host/model"
    assert found.reason == "GET https://***@host/model?token=*** failed"
    ledger.close()
    for path in storage.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
