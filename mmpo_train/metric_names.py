"""Names of the metrics, in training, evaluations, MLflow and the report. Standard library only.

A name is a group, which ends with a slash, and the quantity. The number of a single judge ends with the judge's name.
"""

import re
from collections.abc import Collection

TRAIN = "train/"
"""Group of an optimiser step's metrics."""
CURVE = "validation_curve/"
"""Group of the training loop's own validations; their step is the optimiser step."""
VALIDATION, HARNESS, ALPACA, ARENA = "validation/", "harness/", "alpaca/", "arena_hard/"
"""Groups of a checkpoint's metrics, one for each evaluation; their step is the epoch."""
ANSWERS = "answers/"
"""Group of a study's comparison of a checkpoint's answers with those of the starting model."""
ONLINE = "online/"
"""Group of the pairs that an online trial makes for a segment."""
SYSTEM = "system/"
"""Group of what the first worker's machine and GPU are used; MLflow's pages have a tab for it."""

OF_SUITE = {"reward": VALIDATION, "harness": HARNESS, "alpaca": ALPACA, "arena": ARENA}
"""Name of an evaluation, as in the field `evaluations` -> the group of its metrics."""

EPOCH = f"{TRAIN}epoch"
LEARNING_RATE = f"{TRAIN}learning_rate"
LOSS = f"{TRAIN}loss"
GRADIENT_NORM = f"{TRAIN}gradient_norm"
STEP_SECONDS = f"{TRAIN}step_seconds"
PAIRS_PER_SECOND = f"{TRAIN}pairs_per_second"
CONVERSATIONS_PER_SECOND = f"{TRAIN}conversations_per_second"
TOKENS_PER_SECOND = f"{TRAIN}tokens_per_second"

ACCURACY_CURVE = f"{CURVE}reward_accuracy"
LOSS_CURVE = f"{CURVE}loss"

REWARD_ACCURACY = f"{VALIDATION}reward_accuracy"
POLICY_ACCURACY = f"{VALIDATION}policy_accuracy"
LOGRATIO_ACCURACY = f"{VALIDATION}logratio_accuracy"
REWARD_MARGIN = f"{VALIDATION}reward_margin"
VALIDATION_LOSS = f"{VALIDATION}loss"

HARNESS_MEAN = f"{HARNESS}mean_accuracy"
WIN_RATE = f"{ALPACA}win_rate"
LC_WIN_RATE = f"{ALPACA}lc_win_rate"
LENGTH_CONTROLLED = {
    LC_WIN_RATE: "length-controlled win rate",
    f"{LC_WIN_RATE}_part": "length-controlled win rate on part of the prompts",
    f"{LC_WIN_RATE}_noreg": "length-controlled win rate, not regularised",
    f"{LC_WIN_RATE}_minimal": "length-controlled win rate without difficulties",
}
"""Metric -> its description. Only the first is AlpacaEval's own, which the paper prints."""
ARENA_WIN_RATE = f"{ARENA}win_rate"
ANSWERS_WIN_RATE = f"{ANSWERS}win_rate"
NULL_WIN_RATE, ORDER_FLIP_RATE = "null_win_rate", "order_flip_rate"
"""Quantities that stand beside a judged win rate, in its group: the win rate of an answer that only addresses the
judge, and the share of pairs whose verdict depends on the order."""
UNJUDGED_SHARES = {"alpaca": f"{ALPACA}unjudged_share", "arena": f"{ARENA}unjudged_share"}
"""Evaluation -> the share of its prompts on which a judge gave no verdict that counts."""


def error_of(metric: str) -> str:
    """The name of a metric's standard error."""
    return f"{metric}_error"


def errors_of(metric: str, there: Collection[str]) -> list[str]:
    """The names of its standard errors that are there: its own, or those of its judges."""
    group, quantity, *judge = metric.split("/", 2)
    own = "/".join([error_of(f"{group}/{quantity}"), *judge])
    return [own] if own in there else sorted(name for name in there if name.startswith(by_judge(own, "")))


def judge_checks_of(win_rate: str) -> tuple[str, str]:
    """The names of the null answer's win rate and of the order-flip rate beside a win rate."""
    group = win_rate.partition("/")[0]
    return f"{group}/{NULL_WIN_RATE}", f"{group}/{ORDER_FLIP_RATE}"


def by_judge(metric: str, judge: str) -> str:
    """The name of one judge's number; the metric itself is the mean over judges."""
    return f"{metric}/{judge}"


def as_part(text: str, otherwise: str = "other") -> str:
    """The text as one part of a name, in characters that every tracker accepts; a '/' would nest it deeper."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).strip(".") or otherwise


def harness_task(task: str) -> str:
    """The name of a task's accuracy."""
    return f"{HARNESS}{task}/acc"


def arena_category(category: str) -> str:
    """The name of the win rate on one category of questions."""
    return f"{ARENA}{category}/win_rate"
