"""Confidence intervals and tests of accuracies. The door to SciPy, which is imported late."""

import math
from collections.abc import Sequence
from statistics import NormalDist, mean, stdev

SIGNIFICANCE = 0.05
Z = 1.96
"""Half the width of a 95% interval, in standard errors."""


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95% bounds of a share: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) (Wilson 1927).

    SciPy's function takes whole numbers of successes, and a mean over seeds need not be one.
    """
    z = NormalDist().inv_cdf(0.975)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Exact ends, where rounding would leave 1e-17 on the wrong side.
    low = (centre - spread) / scale if successes else 0.0
    high = (centre + spread) / scale if successes < trials else 1.0
    return low, high


def sign_test(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Two-sided p of the exact sign test (McNemar's for verdicts of 0 and 1): whether each of the two is better on
    equally many pairs.

    It is not corrected for the number of trials compared, nor for the choice of the best epoch.
    """
    from scipy.stats import binomtest

    ours_better = sum(1 for our, their in zip(ours, theirs, strict=True) if our > their)
    discordant = sum(1 for our, their in zip(ours, theirs, strict=True) if our != their)
    return float(binomtest(ours_better, discordant).pvalue) if discordant else 1.0


def difference_test(difference: float, error: float) -> float:
    """Two-sided p of the normal test that a difference with this standard error is 0."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(difference) / error)


def t_test(differences: Sequence[float]) -> float:
    """Two-sided p of Student's t-test that at least two paired differences have mean 0."""
    from scipy.stats import t

    count, centre, spread = len(differences), mean(differences), stdev(differences)
    if spread == 0:
        return 1.0 if centre == 0 else 0.0
    # Not ttest_1samp: it warns of differences that are equal but for rounding.
    return float(2 * t.sf(abs(centre) / (spread / math.sqrt(count)), count - 1))


def t_quantile(freedom: float) -> float:
    """Half the width of a 95% interval in standard errors, by Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def variance_test(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p of the F test that two samples, of at least two numbers each, have the same variance."""
    from scipy.stats import f

    if stdev(theirs) == 0:
        return 1.0 if stdev(ours) == 0 else 0.0
    ratio = (stdev(ours) / stdev(theirs)) ** 2
    shares = f.cdf(ratio, len(ours) - 1, len(theirs) - 1), f.sf(ratio, len(ours) - 1, len(theirs) - 1)
    return float(min(1.0, 2 * min(shares)))


def spread_test(deviation: float, noise: float, count: int) -> float:
    """Probability that noise alone gives `count` numbers this sample standard deviation or a larger one.

    With `noise` the standard error of each number, (count - 1) (deviation / noise)^2 is chi squared with count - 1
    degrees of freedom.
    """
    from scipy.stats import chi2

    return float(chi2.sf((count - 1) * (deviation / noise) ** 2, count - 1))


def p_text(p_value: float | None) -> str:
    """A p value as text."""
    assert p_value is not None
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"
