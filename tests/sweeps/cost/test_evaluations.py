"""What evaluations add to a forecast, and what it does not count, worked by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmpo_train.config import TrialConfig, replace
from sweeps.cost.arithmetic import ONLINE, Lengths, ModelSize
from sweeps.cost.evaluations import evaluation_work, left_out
from sweeps.plan.options import SweepEvaluation

GPT = "openai:gpt-4o-mini-2024-07-18"
SIZE = ModelSize(parameters=100, layers=5, width=8)
VALIDATION = Lengths(np.full(10, 6), np.full((10, 2), 20))
"""Ten prompts of 6 tokens with two answers of 20."""


def trials(count: int, train: int = 100, validation: int = 10, **values: Any) -> list[Any]:
    data = SimpleNamespace(train=range(train), validation=range(validation))
    one = SimpleNamespace(config=replace(TrialConfig(), values), inputs=SimpleNamespace(data=data))
    return [one] * count


def test_scores_are_a_pass_over_the_validation_pairs_for_each_checkpoint():
    """Three trials of two epochs: 6 passes over 10 · (6 + 2 · 20) = 460 tokens, 200 FLOP each, and 2 · 5 · 8 = 80 for
    each of 10 · (6² + 2 · (26² - 6²)) = 13,160 pairs of positions."""
    work = evaluation_work(trials(3, epochs=2), SweepEvaluation(), SIZE, VALIDATION)
    assert list(work) == ["scores"]
    assert work["scores"] == (6 * (200 * 460 + 80 * 13_160), pytest.approx(5 + 6 * 0.5))


def test_weights_are_read_for_each_checkpoint():
    """A billion parameters of two bytes at 1 GB a second, and half a second more."""
    large = ModelSize(10**9, 5, 8)
    assert evaluation_work(trials(1, epochs=4), SweepEvaluation(), large, VALIDATION)["scores"].seconds == 5 + 4 * 2.5


def test_alpaca_s_answers_are_as_long_as_the_data_s_and_their_steps_take_time():
    """805 prompts for 4 checkpoints and the starting model, each of 6 + 20 tokens. 805 · (6 + 4096) tokens are 50.4
    batches of 65,536, so 51, of up to 4 · 20 steps of 5 layers."""
    some = trials(2, model="some/model", epochs=2, evaluations=("reward", "alpaca"))
    flop, seconds = evaluation_work(some, SweepEvaluation(), SIZE, VALIDATION)["alpaca's answers"]
    assert flop == 200 * 5 * 805 * 26
    assert seconds == pytest.approx(5 + 5 * (0.5 + 51 * 80 * 5 * 0.0008), rel=1e-6)


def test_a_limit_of_prompts_and_of_tokens_is_kept_to():
    """7 prompts, answers of at most 16 tokens: 3 · 7 · 22 tokens, and one batch of 16 steps each time."""
    some = trials(1, model="some/model", epochs=2, evaluations=("reward", "alpaca"))
    settings = SweepEvaluation(limit=7, max_answer_tokens=16)
    flop, seconds = evaluation_work(some, settings, SIZE, VALIDATION)["alpaca's answers"]
    assert (flop, seconds) == (200 * 3 * 7 * 22, pytest.approx(5 + 3 * (0.5 + 16 * 5 * 0.0008), rel=1e-6))


def test_arena_s_prompts_are_those_of_its_folder(tmp_path):
    rows = [{"uid": str(number), "category": "a", "prompt": "why?"} for number in range(3)]
    (tmp_path / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    some = trials(1, model="some/model", epochs=1, evaluations=("reward", "arena"))
    work = evaluation_work(some, SweepEvaluation(arena_questions=tmp_path), SIZE, VALIDATION)
    assert work["arena's answers"].flop == 200 * 2 * 3 * 26
    assert "arena's answers" not in evaluation_work(some, SweepEvaluation(), SIZE, VALIDATION)


def test_harness_is_counted_from_its_rows_where_they_are_here(tmp_path):
    """Two rows of 40 and 24 characters, of which the limit takes one: 10 tokens at 200 FLOP on each checkpoint."""
    (tmp_path / "piqa.jsonl").write_text("x" * 40 + "\n" + "y" * 24 + "\n")
    some = trials(2, model="some/model", epochs=3, evaluations=("reward", "harness"))
    settings = SweepEvaluation(task_data=tmp_path, harness_tasks=("piqa",), limit=1)
    assert evaluation_work(some, settings, SIZE, VALIDATION)["harness"].flop == 6 * 10 * 200
    assert left_out(some, settings) == ""
    on_hub = SweepEvaluation(harness_tasks=("piqa",))
    assert "harness" not in evaluation_work(some, on_hub, SIZE, VALIDATION)
    assert left_out(some, on_hub).endswith("harness on 6 checkpoints, as its tasks are on the hub")


def test_online_answers_read_each_prompt_once_and_are_scored_by_the_reference():
    """2 trials of 3 epochs over 100 prompts, four answers each: twice 600 · (6 + 4 · 20) tokens."""
    online = {"objective": "on_mc_po", "judge": "tiny", "epochs": 3, "answer_temperatures": (0.7, 0.8, 0.9, 1.0)}
    work = evaluation_work(trials(2, **online), SweepEvaluation(), SIZE, VALIDATION)
    assert work[ONLINE].flop == 2 * 200 * 600 * 86


def test_a_study_s_answers_are_counted_with_the_starting_model_s():
    work = evaluation_work(trials(3, epochs=2), SweepEvaluation(), SIZE, VALIDATION, judge="tiny")
    assert work["answers to the validation prompts"].flop == 200 * 7 * 10 * 26


def test_offline_trials_without_other_evaluations_leave_nothing_out():
    assert left_out(trials(3), SweepEvaluation()) == ""


def test_online_trials_have_the_judge_s_calls_and_price():
    """2 trials of 3 epochs over 100 prompts: 600 questions of 4 answers each, found by 3 comparisons each.

    A call has 400 + 2 · 500 tokens at 0.15 and 20 at 0.60 USD a million: 0.000222 USD; 1,800 of them 0.40 USD.
    """
    online = {"objective": "on_mc_po", "judge": GPT, "epochs": 3, "max_completion_tokens": 1024}
    said = left_out(trials(2, **online, answer_temperatures=(0.7, 0.8, 0.9, 1.0)), SweepEvaluation())
    assert f"online training, about 1,800 calls of the judge {GPT}, 0.40 USD" in said


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
