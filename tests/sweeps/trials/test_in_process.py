"""Trials in this process: what is refused, where errors are raised, and how trials are stopped and judged."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmpo_train.config import TrialConfig, replace
from mmpo_train.errors import InputError
from mmpo_train.sft.prepare import identify_sft, materialise_sft
from mmpo_train.sft.trial import SFTTrial, change
from mmpo_train.trial.checkpoint import checkpoint_folder
from sweeps.plan.options import SweepEvaluation, SweepOptions
from sweeps.trials.board import Board, Row
from sweeps.trials.in_process import InProcess
from sweeps.trials.listener import Listener
from sweeps.trials.runner import running
from sweeps.trials.work import Work
from tests.support.search import Kept
from tests.support.standins.judge_server import JudgeServer, shortest_wins


def trained(prepared: Any, *changes: dict[str, Any], goes_on: Any = None, **about: Any) -> dict[str, Kept]:
    """Train the prepared trial with each of the changes; what was kept of every trial that began, in order."""
    configs = [replace(prepared.config, one) for one in changes]
    return trained_in({one.digest: (one, prepared.places) for one in configs}, prepared.storage, goes_on, **about)


def trained_in(trials: dict[str, Any], storage: Path, goes_on: Any = None, **about: Any) -> dict[str, Kept]:
    """The same of trials with their places."""
    runner, logs = InProcess(), {}
    options = SweepOptions(storage=str(storage), evaluation=about.pop("evaluation", SweepEvaluation()))
    work = Work(trials=trials, options=options, resources=runner.place(options), **about)
    rows = {digest: Row(digest, trial.epochs, isinstance(trial, SFTTrial)) for digest, (trial, _) in trials.items()}
    board = Board(Console(file=io.StringIO()), "trials", "trial", rows, 1)

    def open_log(digest: str) -> Kept:
        return logs.setdefault(digest, Kept())

    try:
        baselines = runner.train(work, Listener(work, open_log, board, goes_on))
        assert list(baselines) == [digest for digest, (trial, _) in trials.items() if isinstance(trial, TrialConfig)]
    finally:
        trained.logs = list(logs.values())
    return logs


def test_several_workers_or_trials_at_a_time_are_refused():
    for several in ({"workers_per_trial": 2}, {"concurrent_trials": 2}):
        with pytest.raises(InputError, match="--runner process trains one trial at a time with one worker"):
            InProcess().place(SweepOptions(**several))
    found = InProcess().place(SweepOptions(recipe="llama-3-8b"))
    assert (found.workers, found.concurrent) == (1, 1)


def test_a_runner_of_another_name_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="give ray or process"), running(SweepOptions(runner="rya")):
        pass


def test_an_error_is_raised_where_it_happens_and_the_trials_after_it_do_not_begin(prepared, monkeypatch):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("no such number")

    monkeypatch.setattr("mmpo_train.trial.preferences.accumulate", broken)
    with pytest.raises(ZeroDivisionError) as raised:
        trained(prepared, {"beta": 0.21}, {"beta": 0.22})
    assert raised.traceback[-1].name == "broken"
    [log] = trained.logs
    assert log.end == ("fail", "ZeroDivisionError: no such number")


def test_trials_are_judged_after_every_epoch_and_diverging_is_a_result(prepared):
    first, second = trained(prepared, {"beta": 0.23, "epochs": 2}, {"learning_rate": 1e30}).values()
    assert [epoch for epoch, _ in first.evaluations] == [1, 2] and first.end[0] == "finish" and first.end[1] > 0
    for epoch, metrics in first.evaluations:
        curve = first.curve("validation_curve/reward_accuracy")
        assert metrics["validation/reward_accuracy"] == curve[max(curve) * epoch // 2]
    assert second.end[0] == "diverged" and "nan" in second.end[1] or "inf" in second.end[1]


def test_a_trial_that_is_told_to_stop_has_one_checkpoint(prepared):
    change = {"beta": 0.24, "epochs": 2}
    [log] = trained(prepared, change, goes_on=lambda digest, epoch, accuracy: False).values()
    assert log.end[:2] == ("stopped", "stopped early, after epoch 1")
    folder = prepared.places.trial(replace(prepared.config, change))
    assert checkpoint_folder(folder, 1).is_dir() and not checkpoint_folder(folder, 2).exists()


def test_online_trials_have_their_answers_made_and_ranked_here(prepared):
    with JudgeServer(verdict=shortest_wins) as server:
        change = {"objective": "on_mc_po", "judge": server.spec(), "max_completion_tokens": 12, "segments": 2}
        [log] = trained(prepared, change).values()
    assert log.end[0] == "finish" and len(log.curve("online/prompts")) == 2


def test_a_study_s_win_rate_stands_beside_the_reward_accuracy(prepared):
    with JudgeServer(verdict=shortest_wins) as server:
        [log] = trained(prepared, {"beta": 0.25, "max_completion_tokens": 12}, judge=server.spec()).values()
    [(_, metrics)] = log.evaluations
    assert 0 <= metrics["answers/win_rate"] <= 1 and "validation/reward_accuracy" in metrics


def test_a_tuning_is_recorded_with_the_loop_s_own_validation_loss(prepared, preference_rows, tmp_path):
    chats = tmp_path / "chats.jsonl"
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in preference_rows]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"model": prepared.config.model, "dataset": str(chats), "conversations_per_step": 8, "epochs": 2}
    inputs = identify_sft(change(SFTTrial(), values | {"precision": "fp32", "validate_every_steps": 1}), tmp_path)
    places, _ = materialise_sft(inputs, lambda what, share: None)
    [log] = trained_in({inputs.config.digest: (inputs.config, places)}, tmp_path).values()
    curve = log.curve("validation_curve/loss")
    steps = max(curve)
    assert log.evaluations == [(1, {"validation/loss": curve[steps // 2]}), (2, {"validation/loss": curve[steps]})]
    assert log.end[0] == "finish" and curve[steps] < curve[1]
