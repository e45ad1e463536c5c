"""The joint search: proposals, early stopping, importances; with made-up training on a real MLflow, and for real."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

from mmpo_train.terminal import console
from mmpo_train.trial.early_stop import GO_ON, STOP, Stopped, read_answer, write_answer
from sweeps import joint_search, stage1_lr
from sweeps.figures import importances as joint_plot
from sweeps.ledger.ledger import connect
from sweeps.search.joint import budget_of, ranges_of
from sweeps.search.joint_results import FIRST, Tried, answer, best_of, importances_of
from sweeps.search.proposals import Proposals, Range, importances
from tests.support.search import PAIRS, Search, no_picture
from tests.support.workers import REPOSITORY

RANGES = {"learning_rate": Range(1e-6, 5e-4, log=True), "beta": Range(0.01, 0.5, log=True)}


def by_rate(values) -> float:
    """Better the higher the learning rate: 0.5 at 1e-6, 0.635 at 5e-4."""
    return 0.5 + 0.05 * math.log10(values["learning_rate"] / 1e-6)


def rounds(proposals: Proposals, count: int, states: dict[int, str] | None = None) -> list[tuple[dict, str]]:
    """Ask for two at a time and tell how they end: by ASHA, or as they ended before."""
    ended = []
    for _ in range(count):
        for number, values in [proposals.ask(), proposals.ask()]:
            score = by_rate(values)
            if states is None:
                state = "finished" if proposals.goes_on(number, 1, score) else "stopped"
            else:
                state = states[number]
            proposals.tell(number, [score, score + 0.01] if state == "finished" else [score], state)
            ended.append((values, state))
    return ended


def test_the_same_seed_proposes_the_same_and_told_from_the_ledger_it_goes_on_as_it_began():
    first = rounds(Proposals(RANGES, 42, random_first=4), 8)
    assert rounds(Proposals(RANGES, 42, random_first=4), 8) == first
    assert rounds(Proposals(RANGES, 43, random_first=4), 8) != first
    half = Proposals(RANGES, 42, random_first=4)
    told = rounds(half, 4, dict(enumerate(state for _, state in first)))
    assert told == first[:8] and rounds(half, 4) == first[8:]


def test_proposals_lie_in_the_grids_and_about_half_are_stopped():
    found = rounds(Proposals(RANGES, 1, random_first=4), 10)
    for values, _ in found:
        assert all(RANGES[name].low <= value <= RANGES[name].high for name, value in values.items())
    stopped = [by_rate(values) for values, state in found if state == "stopped"]
    finished = [by_rate(values) for values, state in found if state == "finished"]
    assert 4 <= len(stopped) <= 14 and max(finished) > max(stopped)


def test_a_trial_that_diverged_counts_and_one_that_failed_does_not():
    proposals = Proposals(RANGES, 1, random_first=4)
    for state in ("diverged", "failed"):
        proposals.tell(proposals.ask()[0], [], state)
    assert [one.state.name for one in proposals.study.trials] == ["PRUNED", "FAIL"]


def test_the_study_is_kept_as_a_journal_that_optuna_opens(tmp_path):
    proposals = Proposals(RANGES, 1, random_first=4)
    path = tmp_path / "optuna" / "study.journal"
    for score in (0.5, 0.75):
        number, values = proposals.ask()
        proposals.tell(number, [score - 0.25, score], "finished")
        proposals.write_journal(path, "a study")
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    kept = optuna.load_study(study_name="a study", storage=journal)
    assert [one.value for one in kept.trials] == [0.5, 0.75] and kept.trials[1].intermediate_values == {1: 0.5, 2: 0.75}
    assert kept.best_params == pytest.approx(values, rel=1e-3)


def test_importances_name_what_the_score_depends_on():
    random = np.random.default_rng(0)
    tried = []
    for _ in range(40):
        values = {"learning_rate": 10 ** random.uniform(-6, -3.4), "beta": 10 ** random.uniform(-2, -0.31)}
        tried.append((values, by_rate(values)))
    found = importances(RANGES, tried, seed=0)
    assert found["learning_rate"] > 0.9 and sum(found.values()) == pytest.approx(1)
    assert importances(RANGES, tried[:3], seed=0) == {} and importances(RANGES, [(tried[0][0], 0.5)] * 9, seed=0) == {}


def test_the_budget_is_the_staged_searchs():
    assert [budget_of(name) for name in ("mmpo", "dpo", "simpo")] == [21, 10, 16]
    assert list(ranges_of("simpo")) == ["learning_rate", "beta", "gamma_over_beta"]
    assert list(ranges_of("dpo")) == ["learning_rate", "beta"]
    assert (ranges_of("mmpo")["r_eps"].low, ranges_of("mmpo")["r_eps"].high) == (0, 1)


def test_the_first_answer_to_a_trial_stands(tmp_path):
    assert read_answer(tmp_path, 1) == ""
    assert write_answer(tmp_path, 1, STOP) == STOP == write_answer(tmp_path, 1, GO_ON) == read_answer(tmp_path, 1)
    assert read_answer(tmp_path, 2) == ""


def test_a_watched_trial_waits_at_each_epochs_end_and_resumes_where_it_was_stopped(prepared):
    """On two epochs: told to stop after the first, it has one checkpoint; without a watch it goes on from there."""
    from mmpo_train.config import replace
    from mmpo_train.engines.torch_engine import TorchEngine
    from mmpo_train.trial.checkpoint import checkpoint_folder
    from mmpo_train.trial.run import run_trial

    config = replace(prepared.config, {"epochs": 2, "learning_rate": 1e-3, "beta": 0.123})
    folder = prepared.places.trial(config)
    sent: list[int] = []

    def send(points, finished):
        if finished:
            sent.append(finished.epoch)
            if finished.epoch == 1:
                threading.Timer(0.7, write_answer, (folder, 1, STOP)).start()

    started = time.monotonic()
    with pytest.raises(Stopped, match="stopped early, after epoch 1"):
        run_trial(config, prepared.places, TorchEngine, send, watched=True)
    assert time.monotonic() - started > 0.7 and sent == [1]
    with pytest.raises(Stopped):  # killed before it was recorded, and run again
        run_trial(config, prepared.places, TorchEngine, send, watched=True)
    run_trial(config, prepared.places, TorchEngine, send)
    assert sent == [1, 1, 1, 2] and checkpoint_folder(folder, 2).is_dir()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty ledger; making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("database")
    connect(None, folder).close()
    return folder / "mlflow.db"


class Joint(Search):
    """Joint searches whose training is made up; it is better the higher the learning rate."""

    fail_after: int = 1000

    def by_rate(self, config):
        if len(self.trained) == self.fail_after:
            raise KeyboardInterrupt
        return round(PAIRS * by_rate(vars(config)))


@pytest.fixture
def search(empty, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    shutil.copy(empty, tmp_path / "runs" / "mlflow.db")
    made = Joint(tmp_path / "runs")
    made.outcome = made.by_rate
    monkeypatch.setattr(console, "_width", 200)
    monkeypatch.setattr(joint_plot, "plot_importances", no_picture)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


TWO = ("--objective", "dpo", "--concurrent-trials", "2")


def test_a_search_stops_some_records_them_as_stopped_and_says_what_mattered(search):
    printed = search(joint_search, *TWO)
    states = [run.data.tags["trial.state"] for run in search.runs(ledger_kind="trial")]
    assert len(states) == 10 and set(states) == {"finished", "stopped"}
    assert re.search(
        r"Best of 10 \(\d finished, \d stopped\): learning rate \S+, beta \S+, reward accuracy 0\.6", printed
    )
    assert re.search(
        r"Beta explains \d+% of the variance of dpo's .* over 10 trials; learning rate explains most", printed
    )
    [parent] = search.runs(ledger_kind="stage")
    assert parent.data.tags["stage.name"] == "joint_search" and float(parent.data.tags["importance.beta"]) < 0.5
    ledger = connect(None, search.storage)
    assert ledger.json_artifact(parent.info.run_id, "importances.json")["columns"][0] == "field"
    assert len(ledger.json_artifact(parent.info.run_id, "trials.json")["data"]) == 10
    names = [one.path for one in ledger.store.client.list_artifacts(parent.info.run_id, "figures")]
    ledger.close()
    assert names and names[0].endswith(".png")


def test_the_same_command_trains_nothing_twice_and_goes_on_where_it_was_killed(search):
    search.fail_after = 5
    with pytest.raises(SystemExit) as stop:
        search(joint_search, *TWO)
    assert stop.value.code == 130
    before = {(one.learning_rate, one.beta) for one in search.trained}
    search.fail_after = 1000
    search(joint_search, *TWO)
    after = {(one.learning_rate, one.beta) for one in search.trained}
    assert len(before) == 5 and len(after) == 5 and not before & after
    printed = search(joint_search, *TWO)
    assert not search.trained and "Best of 10" in printed


def test_a_stopped_trial_is_no_result_and_is_trained_on_by_a_stage_that_wants_it(search):
    search(joint_search, *TWO)
    [run, *_] = [run for run in search.runs(ledger_kind="trial") if run.data.tags["trial.state"] == "stopped"]
    assert run.info.status == "KILLED" and run.data.tags["trial.reason"] == "stopped early, after epoch 1"
    rate, beta = run.data.params["learning_rate"], run.data.params["beta"]
    words = ("--objective", "dpo", "--learning-rates", rate, "--set", f"beta={beta}")
    assert "1 to train, 0 to reuse" in search(stage1_lr, *words, "--dry-run")
    search(stage1_lr, *words)
    assert len(search.trained) == 1
    [again] = search.runs(trial_digest=run.data.tags["trial.digest"])
    assert again.data.tags["trial.state"] == "finished"


def test_a_dry_run_lists_what_is_there_and_the_next_proposals(search):
    printed = search(joint_search, *TWO, "--dry-run")
    assert (
        "10 to train at most, 0 to reuse; 2 at a time" in printed
        and len(re.findall(r"next: \w+ +learning rate \S+, beta ", printed)) == 2
    )
    assert "forecast: " in printed and "nothing was started" in printed
    search(joint_search, *TWO)
    assert "0 to train at most, 10 to reuse" in search(joint_search, *TWO, "--dry-run")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "beta=0.1"), "--set beta=… is what the joint search varies"),
        (("--trials", "-1"), "--trials must be at least 1"),
        (("--objective", "mppo"), "mppo"),
    ],
)
def test_what_cannot_be_searched_is_refused(search, capsys, more, message):
    assert message in search.fails(capsys, joint_search, *more) and not search.trained


def test_the_best_is_a_finished_trial_and_of_equals_the_first():
    tried = [
        Tried(0, "a", {"beta": 0.1}, (0.9,), "stopped"),
        Tried(1, "b", {"beta": 0.2}, (0.6, 0.7), "finished"),
        Tried(2, "c", {"beta": 0.3}, (0.7, 0.6), "finished"),
    ]
    assert best_of(tried).digest == "b" and best_of(tried[:1]) is None


def test_importances_take_every_trial_after_one_epoch():
    tried = [Tried(n, str(n), {"learning_rate": 10**-n, "beta": 0.1}, (0.5 + n / 100,), "stopped") for n in range(3, 7)]
    ranges = {"learning_rate": Range(1e-6, 1e-3, log=True), "beta": Range(0.01, 0.5, log=True)}
    found = importances_of(tried, ranges, 0)
    assert list(found) == [FIRST] and found[FIRST]["learning_rate"] > 0.9
    [told] = answer("dpo", found, tried)
    assert told.startswith("Beta explains 0% of the variance of dpo's reward accuracy after one epoch, over 4 trials;")
    assert told.endswith("With only 4 trials this is a rough estimate.")
    assert "too few" in answer("dpo", {}, tried)[0]


def test_the_picture_of_importances_is_drawn(tmp_path):
    shares = {FIRST: {"learning rate": 0.9, "beta": 0.1}}
    path = joint_plot.plot_importances(tmp_path / "plots" / "one.png", title="dpo", importances=shares)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_joint_search_for_real(model_folder: Path, preference_rows: list[dict], tmp_path: Path) -> None:
    """Three trials on Ray. One is told to stop, since on so few pairs all are level: its loop ends by itself, its
    place goes to the next round, and run again nothing is trained."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = [sys.executable, "sweeps/joint_search.py", "--objective", "dpo", "--trials", "3", "--model"]
    words += [str(model_folder), "--dataset", str(data), "--storage", str(tmp_path / "runs")]
    words += ["--concurrent-trials", "2"]
    for setting in ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32"):
        words += ["--set", setting]

    def run(*more: str) -> str:
        environment = os.environ | {"COLUMNS": "200"}
        done = subprocess.run([*words, *more], cwd=REPOSITORY, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return " ".join(done.stdout.split())

    first, second = re.findall(r"next: (\w+)", run("--dry-run"))
    write_answer(tmp_path / "runs" / "trials" / first, 1, STOP)
    printed = run()
    assert len(re.findall(r": starting: ", printed)) == 3
    assert len(re.findall(r"stopped: stopped early, after epoch 1", printed)) == 1
    assert "Best of 3 (2 finished, 1 stopped)" in printed
    checkpoints = {
        one: len(list((tmp_path / "runs/trials" / one / "checkpoints").iterdir())) for one in (first, second)
    }
    assert checkpoints == {first: 1, second: 2}
    printed = run()
    assert ": starting: " not in printed and "Best of 3 (2 finished, 1 stopped)" in printed
