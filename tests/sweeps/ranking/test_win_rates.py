"""A length control that found nothing is not shown as 50%."""

import numpy as np
import pytest

from eval_workers.alpaca.length_control import Judged, length_controlled_win_rate
from sweeps.ranking.noise import Measured
from sweeps.ranking.win_rates import RAW, length_controlled, shown_rate

KIND = "alpaca/lc_win_rate_minimal"


def test_a_fit_that_found_something_is_shown_with_the_mean_of_its_judges_errors():
    scores = {KIND: 0.6, f"{KIND}/a": 0.5001, f"{KIND}/b": 0.6999, "alpaca/win_rate/a": 0.9, "alpaca/win_rate/b": 0.9}
    errors = {f"{KIND}_error/a": 0.01, f"{KIND}_error/b": 0.03}
    assert shown_rate(scores | errors, KIND) == Measured(0.6, 0.02, "mean of 2 judges' standard errors")


def test_of_two_judges_the_one_whose_fit_found_nothing_counts_with_its_raw_rate():
    """0.6 of a and the raw 0.8 of b in place of its 0.5: 0.7; errors 0.01 and the raw 0.05: 0.03."""
    scores = {KIND: 0.55, f"{KIND}/a": 0.6, f"{KIND}/b": 0.5, "alpaca/win_rate/a": 0.1, "alpaca/win_rate/b": 0.8}
    errors = {f"{KIND}_error/a": 0.01, f"{KIND}_error/b": 0.02, "alpaca/win_rate_error/b": 0.05}
    shown = shown_rate(scores | errors, KIND)
    assert shown is not None and shown.mark == RAW
    assert (shown.value, shown.noise) == (pytest.approx(0.7), pytest.approx(0.03))


def test_without_a_raw_rate_nothing_is_put_in_its_place():
    assert shown_rate({KIND: 0.5}, KIND) == Measured(0.5, None, "unknown")
    assert shown_rate({"alpaca/win_rate": 0.5}, KIND) is None


def test_the_fits_own_penalty_gives_exactly_a_half_where_length_explains_nothing():
    """What `shown_rate` looks for: wins that alternate with lengths have no weight that cross-validation would keep."""
    judged = [Judged(str(n), float(n % 2), 100 + n % 7, 103) for n in range(40)]
    fit = length_controlled_win_rate(judged)
    assert fit.rate == 0.5 and fit.constant == 0 and np.mean([one.won for one in judged]) == 0.5


def test_the_published_kind_goes_first():
    assert length_controlled({KIND: 1, "alpaca/lc_win_rate": 1}) == "alpaca/lc_win_rate"
    assert length_controlled({"alpaca/win_rate": 1}) is None
