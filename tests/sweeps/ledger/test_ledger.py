"""Real MLflow on sqlite in a temporary folder; the schema is made once and copied."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from eval_workers.tracking import store as mlflow_store
from mmpo_train.config import TrialConfig, from_dict, replace
from mmpo_train.errors import InputError
from mmpo_train.events import Point
from sweeps.ledger.journal import TrialTaken, read_entries
from sweeps.ledger.ledger import Ledger, connect
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.stage_log import StageLog
from tests.support.standins.mlflow_server import MlflowServer

EXPERIMENT = "tiny on tiny"
CONFIG = TrialConfig(learning_rate=5e-4)
LOSS = "training/loss"


@pytest.fixture(scope="module")
def race(tmp_path_factory):
    """Two processes that make the same database at once: the folder, and what each said and returned."""
    folder = tmp_path_factory.mktemp("database")
    imports = "import pathlib, sys; from sweeps.ledger.ledger import connect"
    code = f"{imports}; connect(None, pathlib.Path(sys.argv[1])).close()"
    command = [sys.executable, "-c", code, str(folder)]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, text=True, stdout=pipe, stderr=subprocess.STDOUT) for _ in range(2)]
    return folder, [(child.communicate()[0], child.returncode) for child in children]


@pytest.fixture
def storage(tmp_path, race):
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(race[0] / "mlflow.db", folder / "mlflow.db")
    return folder


@pytest.fixture
def ledger(storage):
    opened = connect(None, storage)
    yield opened
    opened.close()


def open_stage(ledger: Ledger, grid_key: str = "1e-4,5e-4", **given) -> StageLog:
    given = {"title": "learning rate", "params": {"axis": "learning_rate"}, "note": "Stage 1", **given}
    return ledger.open_stage(EXPERIMENT, "stage1", "mmpo", grid_key, **given)


def losses(first: int, last: int, timestamp: int = 1_000) -> list[Point]:
    return [Point(step, timestamp + step, {LOSS: 1 / step}) for step in range(first, last + 1)]


def find(ledger: Ledger, config: TrialConfig = CONFIG) -> TrialRecord:
    found = ledger.find_trial(EXPERIMENT, config.digest)
    assert found is not None
    return found


def runs_of(ledger: Ledger, config: TrialConfig = CONFIG) -> list:
    store = ledger.store
    return store.search(store.experiment_id(EXPERIMENT), {"trial.digest": config.digest})


def history(ledger: Ledger, run_id: str | None, metric: str = LOSS) -> list[tuple[int, float, int]]:
    assert run_id is not None
    points = ledger.store.client.get_metric_history(run_id, metric)
    return sorted((point.step, point.value, point.timestamp) for point in points)


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


def test_a_second_driver_goes_on_in_the_same_run_and_doubles_nothing(storage):
    """The second walks over steps 1 to 5 again with other timestamps, as a trial resumed from a checkpoint does."""
    first = connect(None, storage)
    trial = open_stage(first).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 5))
    trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
    first.close()
    assert runs_of(first)[0].info.status == "RUNNING"
    second = connect(None, storage)
    assert find(second).status == "running"
    trial = open_stage(second).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 8, timestamp=9_000))
    trial.evaluated(1, {"validation/reward_accuracy": 0.75}, [1, 1], "ckpt/1 again")
    trial.finish(1)
    found = find(second)
    second.close()
    assert [run.info.run_id for run in runs_of(second)] == [found.run_id]
    expected = [(step, 1 / step, 1_000 + step) for step in range(1, 6)]
    expected += [(step, 1 / step, 9_000 + step) for step in range(6, 9)]
    assert history(second, found.run_id) == expected
    assert len(history(second, found.run_id, "validation/reward_accuracy")) == 1
    assert [(e.epoch, e.checkpoint) for e in found.evaluations] == [(1, "ckpt/1")]


def sent_by(ledger: Ledger, monkeypatch) -> list[tuple[str, list[tuple[str, int]]]]:
    """Run, and names and steps of the values, of each batch that is sent from now on."""
    batches: list[tuple[str, list[tuple[str, int]]]] = []
    send = ledger.store.log_metrics

    def noted(run_id: str, batch: list) -> None:
        batches.append((run_id, [(name, step) for name, _, _, step in batch]))
        send(run_id, batch)

    monkeypatch.setattr(ledger.store, "log_metrics", noted)
    return batches


def test_a_second_driver_sends_what_mlflow_has_not_and_steps_that_did_not_come_in_their_order(storage, monkeypatch):
    first = connect(None, storage)
    trial = open_stage(first).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 5))
    for epoch in (1, 3, 2):
        trial.points([Point(epoch, epoch, {"harness/piqa": 0.5})])
    first.flush(30)
    send = first.store.log_metrics
    monkeypatch.setattr(first.store, "log_metrics", lambda run_id, batch: send(run_id, []))  # what a kill loses
    trial.points(losses(6, 7))
    first.close()
    second = connect(None, storage)
    batches = sent_by(second, monkeypatch)
    trial = open_stage(second).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(8, 9))
    trial.finish(1)
    run_id = find(second).run_id
    second.close()
    sent = [one for _, batch in batches for one in batch]
    assert sorted(sent) == [*(("harness/piqa", epoch) for epoch in (1, 2, 3)), *((LOSS, step) for step in range(6, 10))]
    assert [step for step, _, _ in history(second, run_id)] == list(range(1, 10))
    assert len(history(second, run_id, "harness/piqa")) == 3


def test_trials_take_turns_and_a_trial_ends_when_all_its_points_are_there(ledger, monkeypatch):
    monkeypatch.setattr("sweeps.ledger.trial_log.METRICS_PER_BATCH", 2)
    stage, other = open_stage(ledger), replace(CONFIG, {"seed": 7})
    busy, quiet = (stage.open_trial(config, "a trial", {}) for config in (CONFIG, other))
    ledger.flush(30)
    batches = sent_by(ledger, monkeypatch)
    wait, send = threading.Event(), ledger.store.log_metrics
    monkeypatch.setattr(ledger.store, "log_metrics", lambda *given: (wait.wait(30), send(*given)))
    busy.points(losses(1, 7))
    quiet.points(losses(1, 2))
    busy.fail("interrupted")
    wait.set()
    ledger.flush(30)
    turns = [run_id == quiet.run_id for run_id, _ in batches]
    assert turns.index(True) == 1 and len(turns) == 5
    (run,) = runs_of(ledger)
    assert run.info.status == "FAILED" and len(history(ledger, run.info.run_id)) == 7


def test_a_driver_killed_in_mid_write_loses_and_doubles_nothing(storage):
    """The child logs 2,000 steps and kills itself at once, so MLflow has none or some; its last line is torn."""
    code = f"""
import os, pathlib, signal
from tests.sweeps.ledger.test_ledger import *
ledger = connect(None, pathlib.Path({str(storage)!r}))
trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {{}})
for start in range(1, 2001, 10):
    trial.points(losses(start, start + 9))
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stdout == child.stderr == ""
    journal = storage / "trials" / CONFIG.digest / "points.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    ledger = connect(None, storage)
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 2_010))
    trial.finish(1)
    ledger.close()
    (run,) = runs_of(ledger)
    assert history(ledger, run.info.run_id) == [(step, 1 / step, 1_000 + step) for step in range(1, 2_011)]


def test_artifacts_torn_by_a_kill_are_written_again(ledger, storage):
    stage = open_stage(ledger)
    trial = stage.open_trial(CONFIG, "lr=5e-4", {})
    trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
    trial.fail("killed")
    artifacts = storage / "mlartifacts" / find(ledger).run_id / "artifacts"
    for path in (artifacts / "trial.json", artifacts / "validation" / "epoch-0001.json"):
        path.write_text(path.read_text()[:20])
    assert (find(ledger).config, find(ledger).evaluations) == ({}, ())
    stage.open_trial(CONFIG, "lr=5e-4", {}).finish(1)
    assert from_dict(find(ledger).config) == CONFIG
    assert find(ledger).evaluations[0].correct == (1, 0)


def test_a_trial_that_ended_while_mlflow_was_away_is_delivered_when_it_is_looked_for(storage, monkeypatch):
    monkeypatch.setattr("sweeps.ledger.ledger.CLOSE_SECONDS", 0.1)
    away = connect(None, storage)
    stage = open_stage(away)
    away._trials.delivery.stop()  # from here on nothing reaches MLflow
    trial = stage.open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 5))
    trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
    trial.finish(7)
    away.close()
    assert runs_of(away) == []
    back = connect(None, storage)
    found = find(back)
    assert (found.status, found.seconds, len(found.evaluations)) == ("finished", 7, 1)
    assert len(history(back, found.run_id)) == 5
    back.close()


def test_a_run_deleted_by_a_person_is_not_brought_back(ledger):
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    trial.finish(1)
    ledger.flush(30)
    ledger.store.client.delete_run(trial.run_id)
    assert ledger.find_trial(EXPERIMENT, CONFIG.digest) is None


def test_a_database_in_the_place_of_another_is_filled_from_the_journals(storage, race):
    """Nothing is trained again for it: the trial that had finished is there with all its points and evaluations."""
    database = storage / "mlflow.db"
    before = connect(None, storage)
    trial = open_stage(before).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 5))
    trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
    trial.judged_by("harness", 1, {"harness/piqa": 0.25}, {"evaluation.harness.version": "3"})
    trial.finish(7)
    before.close()
    assert database.stat().st_mode & 0o777 == 0o600
    shutil.copy(race[0] / "mlflow.db", database)
    back = connect(None, storage)
    found = find(back)
    assert (found.status, found.seconds, len(found.evaluations)) == ("finished", 7, 1)
    assert len(history(back, found.run_id)) == 5 and len(runs_of(back)) == 1
    assert runs_of(back)[0].data.metrics["harness/piqa"] == 0.25
    assert runs_of(back)[0].data.tags["evaluation.harness.version"] == "3"
    back.close()


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"no database" * 1000]
)
def test_a_damaged_database_is_to_be_moved_away(storage, damage):
    database = storage / "mlflow.db"
    database.write_bytes(damage(database.read_bytes()))
    said = rf"{database} is damaged \(.*\): move it away \(mv {database} {database}.damaged\) and give the same command"
    with pytest.raises(InputError, match=said):
        connect(None, storage)


@pytest.mark.parametrize("damage", ["deleted", "a line changed", "its opening changed", "cut between lines", "cut"])
def test_a_damaged_journal_doubles_nothing_in_mlflow(storage, damage):
    """The trial is trained over the same steps once more, at another time."""
    before = connect(None, storage)
    trial = open_stage(before).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 5))
    before.close()
    journal = storage / "trials" / CONFIG.digest / "points.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    if damage == "deleted":
        journal.unlink()
    elif damage.startswith("cut"):
        journal.write_bytes(b"".join(lines[:3]) + (lines[3][:9] if damage == "cut" else b""))
    else:
        number = 2 if damage == "a line changed" else 0
        lines[number] = lines[number].replace(b"1", b"2", 1)
        journal.write_bytes(b"".join(lines))
    after = connect(None, storage)
    trial = open_stage(after).open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 7, timestamp=9_000))
    trial.finish(1)
    after.flush(30)
    assert [step for step, _, _ in history(after, find(after).run_id)] == list(range(1, 8))
    assert len(runs_of(after)) == 1
    after.close()


@pytest.mark.parametrize("lost", ["validation/epoch-0001.json", "trial.json"])
def test_a_file_that_mlflow_has_lost_of_a_finished_trial_is_sent_again(storage, lost):
    before = connect(None, storage)
    trial = open_stage(before).open_trial(CONFIG, "lr=5e-4", {})
    for epoch in range(1, CONFIG.epochs + 1):
        trial.evaluated(epoch, {"validation/reward_accuracy": 0.5}, [1, 0], f"epoch-{epoch}")
    trial.finish(1)
    before.flush(30)
    whole = find(before)
    before.close()
    [file] = storage.glob(f"mlartifacts/*/artifacts/{lost}")
    file.unlink()
    after = connect(None, storage)
    assert find(after) == whole and len(whole.evaluations) == CONFIG.epochs
    assert len(runs_of(after)) == 1
    after.close()


def test_a_trial_of_which_a_kill_left_the_run_open_is_ended_by_the_next_command(storage):
    """Earlier versions wrote the tag of its end before they closed the run."""
    before = connect(None, storage)
    trial = open_stage(before).open_trial(CONFIG, "lr=5e-4", {})
    trial.finish(1)
    before.flush(30)
    before.store.client.update_run(find(before).run_id, status="RUNNING")
    before.close()
    journal = storage / "trials" / CONFIG.digest / "points.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b'"delivered"' not in line))
    after = connect(None, storage)
    assert find(after).status == "finished" and [run.info.status for run in runs_of(after)] == ["FINISHED"]
    after.close()


def test_what_has_judged_an_epoch_is_known_after_an_interruption(ledger):
    stage = open_stage(ledger)
    trial = stage.open_trial(CONFIG, "lr=5e-4", {})
    trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
    trial.judged_by("harness", 1, {"harness/piqa": 0.25}, {})
    trial.fail("interrupted")
    again = stage.open_trial(CONFIG, "lr=5e-4", {})
    assert (again.judged(1), again.judged(2)) == ({"reward", "harness"}, set())
    assert (again.reward_accuracy(1), again.reward_accuracy(2)) == (0.5, None)


def test_a_run_deleted_under_a_running_trial_is_made_anew_with_all_points(ledger, caplog):
    stage = open_stage(ledger)
    trial = stage.open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 5))
    ledger.flush(30)
    deleted = trial.run_id
    ledger.store.client.delete_run(deleted)
    trial.points(losses(6, 7))
    trial.fail("its run is gone")
    ledger.flush(30)
    assert "MLflow at sqlite:" in caplog.text
    assert "refused points of trial" in caplog.text
    trial = stage.open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 9))
    trial.finish(1)
    assert find(ledger).run_id != deleted
    assert [step for step, _, _ in history(ledger, find(ledger).run_id)] == list(range(1, 10))


def test_closing_with_undelivered_points_says_where_they_are(storage, caplog, monkeypatch):
    monkeypatch.setattr("sweeps.ledger.ledger.CLOSE_SECONDS", 0.05)
    ledger = connect(None, storage)
    stage = open_stage(ledger)
    ledger._trials.delivery.stop()
    stage.open_trial(CONFIG, "lr=5e-4", {}).points(losses(1, 5))
    with pytest.raises(TimeoutError, match=r"safe in .*trials; run the same command again to send it"):
        ledger.flush(0.05)
    ledger.close()
    assert "run the same command again to send it" in caplog.text


def test_logging_returns_at_once_while_mlflow_hangs(ledger):
    stage = open_stage(ledger)
    release = threading.Event()

    def hang() -> None:
        release.wait()

    ledger._trials.delivery.put(hang, "a write that hangs")
    began = time.monotonic()
    trial = stage.open_trial(CONFIG, "lr=5e-4", {})
    trial.points(losses(1, 50))
    trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
    stage.log_table("ranking", {"label": ["5e-4"]})
    trial.finish(1)
    assert time.monotonic() - began < 1
    release.set()
    assert find(ledger).status == "finished"


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


def test_long_curves_are_sent_whole(ledger):
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    trial.points([Point(step, 1_000 + step, {LOSS: 0.5, "training/rate": 1e-5}) for step in range(1, 1_251)])
    trial.finish(1)
    ledger.flush(30)
    assert len(history(ledger, trial.run_id)) == len(history(ledger, trial.run_id, "training/rate")) == 1_250


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


def test_a_stage_is_found_again_with_what_a_person_wrote(ledger, storage, monkeypatch):
    first = open_stage(ledger)
    trial = first.open_trial(CONFIG, "lr=5e-4", {})
    trial.finish(1)
    figure = storage / "curves.png"
    figure.write_bytes(b"png")
    first.log_file(figure, "figures")
    first.log_table("ranking", {"label": ["5e-4", "1e-4"], "accuracy": [0.75, float("nan")]})
    winner = find(ledger)
    first.finish(winner, {"winner.reason": "5e-4 wins"})
    ledger.flush(30)
    ledger.store.client.set_tag(first.run_id, "mlflow.note.content", "I trust 1e-4 more")
    again = open_stage(ledger, note="Stage 1, second time", params={"axis": "learning_rate", "trials": 2})
    again.log_table("ranking", {"label": ["5e-4", "1e-4"], "accuracy": [0.75, 0.5]})
    again.finish(winner, {})
    assert again.run_id == first.run_id
    assert again.tags["stage.winner_digest"] == CONFIG.digest
    (stage,) = ledger.find_stages(EXPERIMENT, "stage1", "mmpo")
    assert stage.tags["mlflow.note.content"] == "I trust 1e-4 more"
    assert stage.tags["winner.reason"] == "5e-4 wins"
    run = ledger.store.client.get_run(first.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"axis": "learning_rate", "trials": "2"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ledger.uri)  # load_table ignores its client's address
    table = ledger.store.client.load_table(run.info.experiment_id, "ranking.json", [first.run_id])
    assert table["accuracy"].tolist() == [0.75, 0.5]
    artifacts = storage / "mlartifacts" / first.run_id / "artifacts"
    assert (artifacts / "figures" / "curves.png").read_bytes() == b"png"
    experiment = ledger.store.client.get_experiment_by_name(EXPERIMENT)
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "validation/reward_accuracy"


def test_grids_and_objectives_are_stages_of_their_own(ledger):
    ids = [open_stage(ledger).run_id, open_stage(ledger, "other grid").run_id]
    ids.append(ledger.open_stage(EXPERIMENT, "stage1", "dpo", "1e-4,5e-4", title="t", params={}, note="").run_id)
    assert len(set(ids)) == 3
    stages = ledger.find_stages(EXPERIMENT, "stage1", "mmpo")
    assert [stage.tags["stage.grid_key"] for stage in stages] == ["1e-4,5e-4", "other grid"]
    assert ledger.find_stages("no such experiment", "stage1", "mmpo") == []


def test_a_ledger_of_another_mlflow_says_what_to_type(storage):
    database = sqlite3.connect(storage / "mlflow.db")
    database.execute("UPDATE alembic_version SET version_num = 'older'")
    database.commit()
    database.close()
    with pytest.raises(InputError, match=rf"type `mlflow db upgrade sqlite:///{storage}/mlflow\.db`"):
        connect(None, storage)


def test_a_deleted_experiment_is_said_to_be_deleted(ledger):
    ledger.store.client.delete_experiment(ledger.store.client.create_experiment("gone"))
    with pytest.raises(InputError, match="'gone' was deleted in MLflow; restore it"):
        ledger.find_trial("gone", CONFIG.digest)


def test_two_processes_create_the_database_at_once_and_say_nothing(race):
    assert race[1] == [("", 0), ("", 0)]


def test_mlflow_is_imported_only_when_it_is_needed():
    code = "import sys, sweeps.ledger.ledger; print({'mlflow', 'ray', 'torch', 'matplotlib'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


class NotMlflow(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_refuses_is_not_there_or_never_answers_is_an_input_error_in_seconds(tmp_path, monkeypatch):
    """A closed port, a port that accepts and stays silent, and a web server that is not MLflow."""
    monkeypatch.setattr(mlflow_store, "PROBE_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, HTTPServer(("127.0.0.1", 0), NotMlflow) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            closed_port = closed.getsockname()[1]
        for port in (closed_port, silent.getsockname()[1], other.server_port):
            began = time.monotonic()
            with pytest.raises(
                InputError, match=r"mlflow server --host 127\.0\.0\.1.*leave out --tracking-uri"
            ) as refusal:
                connect(f"http://ana:hunter2@127.0.0.1:{port}", tmp_path)
            assert time.monotonic() - began < 5
            assert "hunter2" not in str(refusal.value)
            assert refusal.value.__suppress_context__
        other.shutdown()


class OldMlflow(NotMlflow):
    """It has experiments and no models, like MLflow 2."""

    def do_GET(self) -> None:
        if "experiments/search" not in self.path:
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET


def test_a_server_of_an_mlflow_without_models_says_what_to_type(tmp_path):
    with HTTPServer(("127.0.0.1", 0), OldMlflow) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="an MLflow before version 3.*`mlflow db upgrade DATABASE`"):
            connect(f"http://127.0.0.1:{other.server_port}", tmp_path)
        other.shutdown()


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_a_server_is_away(storage, caplog):
    """Steps 1-100 with the server, 101-200 and an evaluation while it is killed, 201-300 when it is back."""
    server = MlflowServer(storage)
    server.start()
    try:
        ledger = connect(server.uri, storage)
        assert ledger.ui_command() == server.uri
        trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
        trial.points(losses(1, 100))
        ledger.flush(30)
        server.stop()
        trial.points(losses(101, 200))
        trial.evaluated(1, {"validation/reward_accuracy": 0.5}, [1, 0], "ckpt/1")
        with pytest.raises(TimeoutError, match="safe in"):
            ledger.flush(4)
        assert "trying again" in caplog.text
        server.start()
        trial.points(losses(201, 300))
        trial.finish(9)
        found = find(ledger)
        assert found.status == "finished"
        assert history(ledger, found.run_id) == [(step, 1 / step, 1_000 + step) for step in range(1, 301)]
        assert found.evaluations[0].correct == (1, 0)
        ledger.close()
    finally:
        server.stop()


def test_a_stage_that_is_broken_off_shows_as_failed_before_its_process_ends(ledger):
    stage = open_stage(ledger)
    stage.break_off()  # nobody flushes or closes the ledger then
    run = ledger.store.client.get_run(stage.run_id)
    assert (run.info.status, run.data.tags["stage.reason"]) == ("FAILED", "interrupted")
