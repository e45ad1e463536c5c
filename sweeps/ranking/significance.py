"""How sure a difference in accuracy is: intervals and paired tests. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, mean, stdev

SIGNIFICANCE = 0.05


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of a share: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # Exact ends, where rounding would leave 1e-17 on the wrong side.
    low = (centre - spread) / scale if successes else 0.0
    high = (centre + spread) / scale if successes < trials else 1.0
    return low, high


def sign_test(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Two-sided p of the exact sign test, for verdicts of 0 and 1 McNemar's: do the pairs on which one of the two is
    better fall evenly on both?

    p = min(1, 2 * sum_{k <= min(b, c)} C(b + c, k) / 2^(b + c)), b and c the pairs on which ours or theirs is better.
    Not corrected for the number of trials compared, nor for the best epoch having been picked.
    """
    ours_better = sum(1 for our, their in zip(ours, theirs, strict=True) if our > their)
    theirs_better = sum(1 for our, their in zip(ours, theirs, strict=True) if their > our)
    discordant = ours_better + theirs_better
    tail = sum(math.comb(discordant, count) for count in range(min(ours_better, theirs_better) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def t_test(differences: Sequence[float]) -> float:
    """Two-sided p of Student's t-test that paired differences have mean 0, at least two of them.

    By the finite sums for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4).
    """
    count, centre, spread = len(differences), mean(differences), stdev(differences)
    if spread == 0:
        return 1.0 if centre == 0 else 0.0
    freedom = count - 1
    angle = math.atan(abs(centre) / (spread / math.sqrt(count)) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for number in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * number / (number + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - inside)


def p_text(p_value: float | None) -> str:
    """A p value as a person reads it."""
    assert p_value is not None
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"
