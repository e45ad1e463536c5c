"""Numbers of several seeds as one text. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev


def with_deviation(values: Sequence[float]) -> str:
    """Mean, and where there are several values their sample standard deviation: `0.5500 (±0.0707)`."""
    spread = f" (±{stdev(values):.4f})" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread}"
