import math
import time
import warnings
from fractions import Fraction

import pytest

from sweeps.ranking.significance import sign_test, spread_test, t_test, wilson_interval


def test_wilson_interval_of_eight_in_ten():
    """z = 1.959964, z^2 = 3.841459: centre (0.8 + 0.192073) / 1.384146 = 0.716740; half width
    1.959964 * sqrt(0.016 + 0.009604) / 1.384146 = 0.226577."""
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.490163, abs=2e-6)
    assert high == pytest.approx(0.943317, abs=2e-6)


def test_wilson_interval_stays_within_zero_and_one():
    """At 0 of n it is [0, z^2 / (n + z^2)] = [0, 3.841459 / 13.841459]."""
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.277533, abs=1e-6))
    assert wilson_interval(10, 10) == (pytest.approx(0.722467, abs=1e-6), 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(1, 3), (8, 10), (300, 512), (9999, 20_000)])
def test_wilson_interval_of_whole_successes_is_scipys(successes, trials):
    from scipy.stats import binomtest

    low, high = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == (pytest.approx(low, rel=1e-12), pytest.approx(high, rel=1e-12))


def ours_and_theirs(ours_better, theirs_better):
    """Verdicts of two trials, with twenty pairs on which both are right or both wrong."""
    ours, theirs = [1] * ours_better + [0] * theirs_better, [0] * ours_better + [1] * theirs_better
    return (*ours, *(1, 0) * 10), (*theirs, *(1, 0) * 10)


@pytest.mark.parametrize("counts", [(7, 1), (1, 7), (0, 6), (30, 51), (900, 1100), (700, 1300), (1000, 0)])
def test_sign_test_is_twice_the_smaller_tail_of_fair_coins(counts):
    """p = 2 sum_{k <= min(b, c)} C(b + c, k) / 2^(b + c), by fractions; of 7 and 1 it is 2 (1 + 8) / 2^8 = 18 / 256."""
    discordant = sum(counts)
    tail = sum(math.comb(discordant, count) for count in range(min(counts) + 1))
    assert sign_test(*ours_and_theirs(*counts)) == pytest.approx(float(Fraction(2 * tail, 2**discordant)), rel=1e-12)


def test_sign_test_of_equal_trials_is_one():
    """No discordant pair leaves 2 * 1 / 1, five against five 2 * 638 / 1024; both are more than certain."""
    assert sign_test((1, 0, 1), (1, 0, 1)) == 1.0
    assert sign_test((1,) * 5 + (0,) * 5, (0,) * 5 + (1,) * 5) == 1.0


def test_sign_test_takes_no_second_for_twenty_thousand_discordant_pairs():
    sign_test((1,), (0,))  # the first call imports SciPy
    began = time.process_time()
    assert sign_test((1,) * 20_000, (0,) * 20_000) == 0.0
    assert sign_test(*ours_and_theirs(9900, 10_100)) == pytest.approx(0.1594, abs=5e-4)
    assert time.process_time() - began < 1


def test_t_test_has_the_tables_critical_values():
    """Differences 1 - x, 1, 1 + x have mean 1 and deviation x, so t = sqrt(3) / x with 2 degrees of freedom; two
    differences 1 - x, 1 + x have deviation x sqrt(2), so t = 1 / x with 1. Two-sided 5%: 4.3027 and 12.7062."""
    assert t_test([1 - 3**0.5 / 4.3027, 1, 1 + 3**0.5 / 4.3027]) == pytest.approx(0.05, abs=1e-5)
    assert t_test([1 - 1 / 12.7062, 1 + 1 / 12.7062]) == pytest.approx(0.05, abs=1e-5)


def test_t_test_of_few_differences_has_its_closed_form():
    """P(|t| > x) is 1 - 2 atan(x) / pi with one degree of freedom, and 1 - x / sqrt(x^2 + 2) with two."""
    assert t_test([0.9, 1.7]) == pytest.approx(1 - 2 * math.atan(1.3 / 0.4) / math.pi, rel=1e-12)
    statistic = 0.5 / (0.4 / 3**0.5)
    assert t_test([0.1, 0.5, 0.9]) == pytest.approx(1 - statistic / math.sqrt(statistic**2 + 2), rel=1e-12)


def test_t_test_of_equal_differences_is_certain_and_says_nothing_on_the_screen():
    """0.55 - 0.5 and 0.65 - 0.6 are equal but for rounding, of which SciPy's own test warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert t_test([0.5, -0.5]) == 1.0 and t_test([0, 0, 0]) == 1.0 and t_test([0.1, 0.1]) == 0.0
        assert t_test([0.55 - 0.5, 0.65 - 0.6, 0.75 - 0.7]) < 1e-20


def test_a_spread_has_the_tails_of_chi_squared():
    """Critical values of the tables at 5%; with two degrees of freedom P(x >= 4) = exp(-2), a deviation of sqrt(2)."""
    for x, freedom in ((3.841, 1), (5.991, 2), (7.815, 3), (9.488, 4), (11.070, 5)):
        assert spread_test(math.sqrt(x / freedom), 1.0, freedom + 1) == pytest.approx(0.05, abs=1e-4)
    assert spread_test(2 * math.sqrt(2), 2.0, 3) == pytest.approx(math.exp(-2), rel=1e-12)
    assert spread_test(0.0, 0.1, 4) == 1.0
