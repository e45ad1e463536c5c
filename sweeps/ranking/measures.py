"""The measures by which `--choose-by` chooses points, as metrics."""

import re
from collections.abc import Collection

from mmpo_train.config import nearest
from mmpo_train.errors import InputError
from mmpo_train.metric_names import (
    ARENA,
    ARENA_WIN_RATE,
    HARNESS,
    HARNESS_MEAN,
    LENGTH_CONTROLLED,
    LOGRATIO_ACCURACY,
    OF_SUITE,
    POLICY_ACCURACY,
    REWARD_ACCURACY,
    VALIDATION,
    WIN_RATE,
)

_MEASURES = (
    REWARD_ACCURACY, POLICY_ACCURACY, LOGRATIO_ACCURACY, WIN_RATE, *LENGTH_CONTROLLED, HARNESS_MEAN, ARENA_WIN_RATE,
)  # fmt: skip
_PARTS = re.compile(f"{HARNESS}[^/]+/acc|{ARENA}[^/]+/win_rate|({'|'.join((WIN_RATE, *LENGTH_CONTROLLED))})/.+")
"""Accuracies of single tasks, win rates of single categories and judges."""


def measure_of(named: str, evaluations: Collection[str]) -> str:
    """The metric that is named, empty for reward accuracy, the paper's; `policy_accuracy` needs no group before it.

    Raises InputError if it is unknown, or comes from an evaluation that is not asked for.
    """
    metric = named if "/" in named else f"{VALIDATION}{named}"
    if metric not in _MEASURES and not _PARTS.fullmatch(metric):
        known = [one.removeprefix(VALIDATION) for one in _MEASURES]
        raise InputError(f"--choose-by {named!r} is unknown{nearest(named, known)}")
    suite = next(suite for suite, group in OF_SUITE.items() if metric.startswith(group))
    if suite not in {"reward", *evaluations}:
        asked = ",".join(dict.fromkeys(("reward", *evaluations, suite)))
        raise InputError(f"--choose-by {named} needs the evaluation {suite}: add --set evaluations={asked}")
    return "" if metric == REWARD_ACCURACY else metric
