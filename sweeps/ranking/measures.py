"""The measures by which `--choose-by` chooses points, as metrics."""

import re
from collections.abc import Collection

from mmpo_train import metric_names as keys
from mmpo_train.config import nearest
from mmpo_train.errors import InputError

_OF_ALPACA = (keys.WIN_RATE, *keys.LENGTH_CONTROLLED)
_OF_PAIRS = (keys.REWARD_ACCURACY, keys.POLICY_ACCURACY, keys.LOGRATIO_ACCURACY)
_MEASURES = (*_OF_PAIRS, *_OF_ALPACA, keys.HARNESS_MEAN, keys.ARENA_WIN_RATE)
_PARTS = re.compile(f"{keys.HARNESS}[^/]+/acc|{keys.ARENA}[^/]+/win_rate|({'|'.join(_OF_ALPACA)})/.+")
"""Accuracies of single tasks, win rates of single categories and judges."""


def measure_of(named: str, evaluations: Collection[str]) -> str:
    """The metric that is named, empty for reward accuracy, the paper's; `policy_accuracy` needs no group before it.

    Raises InputError if it is unknown, or comes from an evaluation that is not asked for.
    """
    metric = named if "/" in named else f"{keys.VALIDATION}{named}"
    if metric not in _MEASURES and not _PARTS.fullmatch(metric):
        known = [one.removeprefix(keys.VALIDATION) for one in _MEASURES]
        raise InputError(f"--choose-by {named!r} is unknown{nearest(named, known)}")
    suite = next(suite for suite, group in keys.OF_SUITE.items() if metric.startswith(group))
    if suite not in {"reward", *evaluations}:
        asked = ",".join(dict.fromkeys(("reward", *evaluations, suite)))
        raise InputError(f"--choose-by {named} needs the evaluation {suite}: add --set evaluations={asked}")
    return "" if metric == keys.REWARD_ACCURACY else metric
