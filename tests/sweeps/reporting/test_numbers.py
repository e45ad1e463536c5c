"""A number's noise and what follows from it, by hand."""

from typing import Any, cast

import pytest

from mmpo_train.metric_names import HARNESS_MEAN, LC_WIN_RATE, REWARD_ACCURACY
from sweeps.ledger.records import Evaluation, TrialRecord
from sweeps.ranking.noise import Measured, difference, spread
from sweeps.reporting.numbers import length_controlled, measure, peak
from sweeps.reporting.read import Point, StageRun, Trial


def trial(scores: dict[str, dict[int, float]], status: str = "finished", pairs: int = 100, epochs: int = 2) -> Trial:
    record = TrialRecord(
        run_id="run", digest="digest", name="name", stage="", parent="", status=status, params={"epochs": str(epochs)},
        config={}, evaluations=(Evaluation(1, {}, (1,) * pairs, "checkpoint"),), judged_by=frozenset(), reason="",
        seconds=None, read_curve=cast(Any, None),
    )  # fmt: skip
    return Trial(record, {}, scores, ())


def point(*trials: Trial, label: str = "0.1", expected: int = 0) -> Point:
    return Point(label, trials, expected or len(trials))


def stage(*points: Point) -> StageRun:
    return StageRun("run", "final_runs", "mmpo", {}, {}, 0, points, (), ())


def test_one_seeds_noise_is_the_metrics_own_error():
    """sqrt(0.8 * 0.2 / 100) = 0.04."""
    one = measure(point(trial({REWARD_ACCURACY: {1: 0.8}})), REWARD_ACCURACY, 1)
    assert one is not None and one.noise == pytest.approx(0.04) and one.noise_is == "binomial standard error, 100 pairs"
    harness = measure(point(trial({HARNESS_MEAN: {1: 0.5}, "harness/mean_accuracy_error": {1: 0.01}})), HARNESS_MEAN, 1)
    assert harness == Measured(0.5, 0.01, "standard error over the tasks' documents")
    assert measure(point(trial({HARNESS_MEAN: {1: 0.5}})), HARNESS_MEAN, 1) == Measured(0.5, None, "unknown")


def test_judges_errors_are_averaged_not_divided_by_their_number():
    scores = {LC_WIN_RATE: {1: 0.6}, f"{LC_WIN_RATE}_error/a": {1: 0.01}, f"{LC_WIN_RATE}_error/b": {1: 0.03}}
    assert measure(point(trial(scores)), LC_WIN_RATE, 1) == Measured(0.6, 0.02, "mean of 2 judges' standard errors")
    del scores[f"{LC_WIN_RATE}_error/b"]
    assert measure(point(trial(scores)), LC_WIN_RATE, 1) == Measured(0.6, 0.01, "the judge's standard error")


def test_several_seeds_noise_is_their_deviation_and_the_missing_ones_are_counted():
    """0.6 and 0.8: mean 0.7, deviation sqrt(0.02), error 0.1. The third diverged, the fourth is not there."""
    seeds = [trial({REWARD_ACCURACY: {1: value}}) for value in (0.6, 0.8)]
    one = measure(point(*seeds, trial({REWARD_ACCURACY: {1: 0.1}}, "diverged"), expected=4), REWARD_ACCURACY, 1)
    assert one is not None and (one.value, one.seeds, one.missing) == (pytest.approx(0.7), 2, 2)
    assert one.noise == pytest.approx(0.02**0.5) and one.error == pytest.approx(0.1)
    assert one.noise_is == "standard deviation over 2 seeds"
    assert measure(point(*seeds), REWARD_ACCURACY, 2) is None


@pytest.mark.parametrize(
    ("ours", "paper", "wanted"),
    [
        (Measured(0.40, 0.01, ""), 37.3, (2.7, True)),  # 1.96 * 1 * sqrt(2) = 2.77
        (Measured(0.40, 0.01, ""), 37.2, (2.8, False)),
        (Measured(0.40, 0.01, "", seeds=4), 37.8, (2.2, False)),  # 1.96 * 1 * sqrt(1.25) = 2.19
        (Measured(0.40, 0.01, "", seeds=4), 37.9, (2.1, True)),
        (Measured(0.40, None, ""), 37.0, (3.0, None)),
        (Measured(0.40, 0.01, ""), None, (None, None)),
        (None, 37.0, (None, None)),
    ],
)
def test_a_difference_is_within_noise_up_to_its_own_95_percent(ours, paper, wanted):
    off, within = difference(ours, paper)
    assert off == (wanted[0] if wanted[0] is None else pytest.approx(wanted[0])) and within is wanted[1]


def test_a_peak_goes_to_the_earlier_of_two_that_tie():
    first = point(trial({HARNESS_MEAN: {1: 0.3, 2: 0.4}, LC_WIN_RATE: {1: 0.9}}), label="0.01")
    second = point(trial({HARNESS_MEAN: {1: 0.4}, LC_WIN_RATE: {1: 0.8, 2: 0.95}}), label="0.5")
    best = peak(stage(first, second), HARNESS_MEAN)
    assert best is not None and (best[0].label, best[1], best[2].value) == ("0.01", 2, 0.4)
    of_rates = peak(stage(first, second), LC_WIN_RATE)
    assert of_rates is not None and (of_rates[0].label, of_rates[1], of_rates[2].value) == ("0.5", 2, 0.95)
    assert peak(stage(first, second), LC_WIN_RATE, [first]) == (first, 1, measure(first, LC_WIN_RATE, 1))
    assert peak(stage(), HARNESS_MEAN) is None


def test_a_spread_knows_no_ratio_where_an_error_is_unknown():
    found = spread([Measured(0.5, 0.01, "a"), Measured(0.6, None, "unknown")])
    assert found is not None and found.widest == pytest.approx(0.1)
    assert (found.noise, found.ratio, found.p_value, found.noise_is) == (None, None, None, "a; unknown")
    assert spread([Measured(0.5, 0.01, "a")]) is None


def test_the_published_length_control_goes_before_its_stand_ins():
    part = stage(point(trial({"alpaca/lc_win_rate_minimal": {1: 0.5}})))
    assert length_controlled([part]) == "alpaca/lc_win_rate_minimal"
    assert length_controlled([part, stage(point(trial({LC_WIN_RATE: {1: 0.5}})))]) == LC_WIN_RATE
    assert length_controlled([]) == LC_WIN_RATE
