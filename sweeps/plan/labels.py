"""Names of fields and values in tables, run names and commands. Standard library only."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any


def words(field: str) -> str:
    """The field in words, such as `learning rate`; r_eps and gamma/beta keep the paper's form."""
    return {"gamma_over_beta": "gamma/beta", "r_eps": "r_eps"}.get(field, field.replace("_", " "))


def option(field: str) -> str:
    """The command-line option of a field."""
    return f"--{field.replace('_', '-')}"


def shown(field: str, value: Any) -> str:
    """A value as text: learning rates as `5e-4`, other numbers as short as possible."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if field != "learning_rate" or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.4e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def with_deviation(values: Sequence[float]) -> str:
    """The mean and, of several values, the sample standard deviation, as in `0.5500 (±0.0707)`."""
    spread = f" (±{stdev(values):.4f})" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread}"
