"""Results of the LM Harness as metrics and files: accuracies with errors, their mean, a log of every sample."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpo_train.metric_names import HARNESS_MEAN, error_of, harness_task


def summary(found: Any, tasks: Sequence[str], missing: Mapping[str, str]) -> dict[str, Any]:
    """{tasks, mean_accuracy, mean_accuracy_error, missing, subjects, versions} from lm-eval's results.

    The mean is the plain mean over `tasks`, None if one has no result; its error is
    sqrt(sum of squared standard errors) / tasks, since documents are independent.
    """
    rows = {name: _row(row) for name, row in found["results"].items() if "acc,none" in row}
    asked = {name: rows[name] for name in tasks if name in rows}
    mean = error = None
    if len(asked) == len(tasks):
        mean = sum(row["acc"] for row in asked.values()) / len(asked)
        errors = [row["acc_stderr"] for row in asked.values()]
        if None not in errors:
            error = math.sqrt(sum(one**2 for one in errors)) / len(errors)
    return {
        "tasks": asked,
        "mean_accuracy": mean,
        "mean_accuracy_error": error,
        "missing": dict(missing),
        "subjects": {name: row for name, row in rows.items() if name not in asked},
        "versions": found["versions"],
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy, its standard error (None for a single document) and the number of documents."""
    error = row["acc_stderr,none"]
    return {
        "acc": float(row["acc,none"]),
        "acc_stderr": None if isinstance(error, str) else float(error),
        "documents": row["sample_len"],
    }


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The summary's numbers under names that MLflow accepts, without those that are None."""
    metrics = {harness_task(name): row["acc"] for name, row in result["tasks"].items()}
    means = {HARNESS_MEAN: result["mean_accuracy"], error_of(HARNESS_MEAN): result["mean_accuracy_error"]}
    return metrics | {name: value for name, value in means.items() if value is not None}


def write_results(
    folder: Path,
    result: Mapping[str, Any],
    parts: Mapping[str, Sequence[str]],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write results.json, and samples/TASK.jsonl with a line for each document of the task's `parts` (subjects)."""
    (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "samples").mkdir()
    for name, names in parts.items():
        with open(folder / "samples" / f"{name}.jsonl", "w") as stream:
            for part in names:
                stream.writelines(_line(part, row) for row in samples[part])


def _line(task: str, sample: Mapping[str, Any]) -> str:
    """lm-eval's log of a sample, without what was not computed."""
    kept = {name: value for name, value in sample.items() if name not in ("resps", "filtered_resps", "filter")}
    logps = [score for score, _ in sample["filtered_resps"]]
    return json.dumps({"task": task, **kept, "loglikelihoods": logps}, default=str) + "\n"
