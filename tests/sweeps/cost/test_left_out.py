"""What the forecast of a dry run does not count, worked by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mmpo_train.config import TrialConfig, replace
from sweeps.cost.left_out import left_out
from sweeps.plan.options import SweepEvaluation

GPT = "openai:gpt-4o-mini-2024-07-18"


def trials(count: int, train: int = 100, validation: int = 10, **values: Any) -> list[Any]:
    data = SimpleNamespace(train=range(train), validation=range(validation))
    one = SimpleNamespace(config=replace(TrialConfig(), values), inputs=SimpleNamespace(data=data))
    return [one] * count


def test_offline_trials_without_other_evaluations_leave_nothing_out():
    assert left_out(trials(3), SweepEvaluation()) == ""


def test_online_trials_have_their_answers_and_the_judge_s_calls_and_price():
    """2 trials of 3 epochs over 100 prompts: 600 questions of 4 answers each, found by 3 comparisons each.

    A call has 400 + 2 · 500 tokens at 0.15 and 20 at 0.60 USD a million: 0.000222 USD; 1,800 of them 0.40 USD.
    """
    online = {"objective": "on_mc_po", "judge": GPT, "epochs": 3, "max_completion_tokens": 1024}
    said = left_out(trials(2, **online, answer_temperatures=(0.7, 0.8, 0.9, 1.0)), SweepEvaluation())
    assert "2,400 answers of online training, about 1,800 calls of the judge" in said
    assert said.endswith(f"{GPT}, 0.40 USD")


def test_an_unknown_price_is_said_and_a_programmatic_judge_costs_nothing():
    online = {"objective": "on_mc_po", "epochs": 1, "answer_temperatures": (0.7, 0.8)}
    assert left_out(trials(1, **online, judge="openai:other"), SweepEvaluation()).endswith("whose price is not known")
    assert left_out(trials(1, **online, judge="tiny"), SweepEvaluation()).endswith("about 100 calls of the judge tiny")


def test_suites_are_counted_by_checkpoints_and_alpaca_by_its_judges():
    """Every second epoch of five and the last: 3 checkpoints. 2 trials, 805 prompts, both orders: 9,660 calls.

    A call of 1,400 tokens at 1 and 20 at 5 USD a million is 0.0015 USD.
    """
    values = {"model": "some/model", "epochs": 5, "evaluate_every_epochs": 2}
    said = left_out(
        trials(2, **values, evaluations=("reward", "harness", "alpaca")),
        SweepEvaluation(both_orders=True, cap_usd=5.0),
    )
    assert "harness on 6 checkpoints" in said and "alpaca on 6 checkpoints" in said
    assert "about 9,660 calls of the judge claude-haiku-4-5-20251001, 14.49 USD" in said
    assert said.endswith("--evaluation.cap-usd stops each judge at 5 USD")


def test_a_study_s_win_rates_are_one_call_a_validation_prompt_and_epoch():
    assert "about 60 calls of the judge tiny" in left_out(trials(3, epochs=2), SweepEvaluation(), judge="tiny")
