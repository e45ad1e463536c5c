"""Every metric is named in one place, and keeps the name under which finished ledgers have it."""

import ast
import re
from pathlib import Path

from mmpo_train import metric_names

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = [path for package in ("mmpo_train", "eval_workers", "sweeps") for path in (REPOSITORY / package).rglob("*.py")]
A_NAME = re.compile(
    r"^(train|training|validation_curve|validation|harness|alpaca|arena_hard|answers|online)/(?!epoch-)"
)


def names_written(source):
    """The texts in a file's code, docstrings aside, that begin as a metric's name does."""
    tree = ast.parse(source)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documented)
    return [node.value for node in texts if isinstance(node.value, str) and A_NAME.match(node.value)]


def test_a_name_is_found_in_a_format_string_and_not_in_a_docstring():
    source = 'def f(name):\n    """train/loss of a step."""\n    return f"train/{name}", {"harness/piqa/acc": 1}'
    assert names_written(source) == ["train/", "harness/piqa/acc"]


def test_metrics_are_named_in_metric_names_alone():
    found = {str(path.relative_to(REPOSITORY)): names_written(path.read_text()) for path in FILES}
    assert found.pop("mmpo_train/metric_names.py")
    assert not {file: names for file, names in found.items() if names}


def test_names_are_those_of_finished_ledgers():
    assert metric_names.LOSS == "train/loss" and metric_names.ACCURACY_CURVE == "validation_curve/reward_accuracy"
    assert metric_names.REWARD_ACCURACY == "validation/reward_accuracy"
    assert metric_names.OF_SUITE["arena"] == "arena_hard/"
    assert metric_names.error_of(metric_names.HARNESS_MEAN) == "harness/mean_accuracy_error"
    assert metric_names.by_judge(metric_names.error_of(metric_names.WIN_RATE), "tiny") == "alpaca/win_rate_error/tiny"
    assert metric_names.harness_task("piqa") == "harness/piqa/acc"
    assert metric_names.arena_category("coding") == "arena_hard/coding/win_rate"
