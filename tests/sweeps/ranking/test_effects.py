"""Differences and what they say of a claim, by hand and against SciPy."""

import pytest
from scipy import stats

from sweeps.ranking.effects import Floor, difference_of, floor_of, of_samples, verdict_of
from sweeps.ranking.noise import Measured
from sweeps.ranking.significance import variance_test


def test_one_run_each_differs_by_its_own_errors_or_by_the_floor_if_that_is_wider():
    """1.96 sqrt(0.03^2 + 0.04^2) = 0.098. The floor: t of 2 degrees, 4.303 x 0.01 x sqrt(2) = 0.0609, or ten times."""
    ours, theirs = Measured(0.6, 0.03, "a"), Measured(0.5, 0.04, "a")
    plain = difference_of(ours, theirs)
    assert plain.value == pytest.approx(0.1) and plain.interval == pytest.approx((0.002, 0.198))
    assert difference_of(ours, theirs, Floor(0.01, 2, 3)).noise_is == "standard errors"
    wide = difference_of(ours, theirs, Floor(0.1, 2, 3))
    assert wide.interval == pytest.approx((0.1 - 0.6085, 0.1 + 0.6085), abs=1e-4) and "3 betas" in wide.noise_is


def test_over_seeds_the_interval_is_welchs():
    ours, theirs = [0.61, 0.63, 0.68], [0.5, 0.58, 0.51, 0.49]
    wanted = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert of_samples(ours, theirs).interval == pytest.approx((wanted.low, wanted.high))
    assert of_samples([0.6], theirs).interval is None


def test_a_floor_is_the_deviation_within_groups_and_no_group_of_one():
    """Within (1, 3) 2 squared, within (5, 5, 8) 6 squared over 3 degrees: sqrt(8 / 3)."""
    floor = floor_of([[1.0, 3.0], [5.0, 5.0, 8.0], [100.0]])
    assert floor == Floor(pytest.approx((8 / 3) ** 0.5), 3, 3)
    assert floor_of([[1.0], []]) is None


@pytest.mark.parametrize(
    ("value", "sign", "wanted"),
    [
        (0.2, 1, "holds"), (-0.2, -1, "holds"), (0.2, -1, "contradicted"), (-0.2, 1, "contradicted"),
        (0.2, 0, "contradicted"), (0.05, 1, "within noise"), (0.05, 0, "within noise"),
    ],
)  # fmt: skip
def test_a_claim_holds_where_the_interval_is_on_its_side(value, sign, wanted):
    effect = difference_of(Measured(0.5 + value, 0.03, ""), Measured(0.5, 0.04, ""))
    assert verdict_of(effect, sign) == wanted


def test_without_noise_there_is_no_verdict():
    assert verdict_of(difference_of(Measured(0.9, None, ""), Measured(0.1, None, "")), 1) == "not measured"
    assert verdict_of(None, 1) == "not measured"


def test_the_variance_test_is_two_sided():
    """Variances 1 and 4 of three numbers each: F(2, 2) = 0.25, whose tail is 0.25 / 1.25 = 0.2."""
    assert variance_test([1, 2, 3], [2, 4, 6]) == pytest.approx(0.4) == variance_test([2, 4, 6], [1, 2, 3])
