"""What reaches MLflow where drivers are killed, files damaged, or MLflow is away: all of it, once."""

import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmpo_train.config import from_dict, replace
from mmpo_train.events import Point
from sweeps.ledger.ledger import Ledger, connect
from tests.support.ledger import CONFIG, LOSS, find, history, losses, open_stage, runs_of
from tests.support.standins.mlflow_server import MlflowServer


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


def test_long_curves_are_sent_whole(ledger):
    trial = open_stage(ledger).open_trial(CONFIG, "lr=5e-4", {})
    trial.points([Point(step, 1_000 + step, {LOSS: 0.5, "training/rate": 1e-5}) for step in range(1, 1_251)])
    trial.finish(1)
    ledger.flush(30)
    assert len(history(ledger, trial.run_id)) == len(history(ledger, trial.run_id, "training/rate")) == 1_250


def test_a_driver_killed_in_mid_write_loses_and_doubles_nothing(storage):
    """The child logs 2,000 steps and kills itself at once, so MLflow has none or some; its last line is torn."""
    code = f"""
import os, pathlib, signal
from sweeps.ledger.ledger import connect
from tests.support.ledger import *
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
