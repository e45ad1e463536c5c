"""Views of MLflow's run list, saved with the experiment: filter, columns and charts.

MLflow stores a view as a tag of the experiment, `mlflow.sharedViewState.<key>`, lists it under *Views* and opens it at
an address that ends in `viewStateShareKey=<key>`. Without a view it shows no params and a chart for every metric.
"""

import json
from collections.abc import Mapping
from typing import Any

from eval_workers.tracking.store import Store
from mmpo_train import metric_names as keys
from sweeps.ledger.records import SEARCHES

VIEW, SHOWN = "mlflow.sharedViewState.", "viewStateShareKey"
"""Prefix of the tag, and the parameter of an address that names a view."""
# Without it MLflow opens the experiment on its pages for traces.
KIND = {"mlflow.experimentKind": "custom_model_development"}
_WIDTHS = {
    "tags.`winner`": 80,
    "tags.`stage.name`": 130,
    f"metrics.`{keys.REWARD_ACCURACY}`": 195,
    "params.`learning_rate`": 110,
    "params.`beta`": 65,
    "params.`margin`": 75,
    f"metrics.`{keys.POLICY_ACCURACY}`": 195,
    f"metrics.`{keys.LOGRATIO_ACCURACY}`": 205,
    f"metrics.`{keys.HARNESS_MEAN}`": 185,
    f"metrics.`{keys.LC_WIN_RATE}`": 150,
    "tags.`taken_from.stage`": 150,
}
"""Column -> pixels. Columns of metrics that no run has are not shown."""
_AXES = ["log10_learning_rate", "beta", "margin"]
_SECTION = "choosing"


def save_views(store: Store, experiment_id: str, run_id: str, title: str, objective: str, search: str = "") -> None:
    """Save a stage's view under its run's id, and one of all its search's trials; those that are there stay.

    Final runs and ablations are not in the latter: they are not compared by learning rate, beta and margin alone.
    """
    wanted = KIND | {f"{VIEW}{run_id}": _saved(title, f"tags.`mlflow.parentRunId` = '{run_id}'", "tags.`stage.name`")}
    if objective and search:
        trials = (
            f"params.objective = '{objective}' and tags.`ledger.kind` = 'trial' and tags.`stage.name` LIKE 'stage%'"
            f" and tags.{SEARCHES} = '{search}'"
        )
        called = f"stages 1 to 3 of {objective}, search {search}"
        wanted[f"{VIEW}{objective}-{search}"] = _saved(called, trials, "tags.`taken_from.stage`")
    there = store.client.get_experiment(experiment_id).tags
    for tag in wanted.keys() - there.keys():
        store.client.set_experiment_tag(experiment_id, tag, wanted[tag])


def _saved(name: str, runs: str, without: str) -> str:
    """A view of the runs of a filter, in MLflow's format: the best run first, all runs in the charts.

    `without` is the column that would have the same value in every row.
    """
    columns = {column: width for column, width in _WIDTHS.items() if column != without}
    state = {
        "searchFilter": runs,
        "orderByKey": f"metrics.`{keys.REWARD_ACCURACY}`",
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": _charts(),
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Choosing", "display": True, "isReordered": False, "columns": 2}
        ],
    }
    # MLflow lists views in the order of these times, which does not matter here.
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def _charts() -> list[dict[str, Any]]:
    """The charts. MLflow hides those without values."""
    axes = {"selectedParams": _AXES, "selectedMetrics": [keys.REWARD_ACCURACY], "showAllRuns": True}
    both = {"xaxis": _metric(keys.HARNESS_MEAN), "yaxis": _metric(keys.LC_WIN_RATE)}
    return [
        _chart("PARALLEL", "axes", axes),
        _chart("BAR", "reward accuracy", {"metricKey": keys.REWARD_ACCURACY}),
        _line(keys.ACCURACY_CURVE),
        _line(keys.LOSS),
        _chart("SCATTER", "harness and win rate", both),
    ]


def _line(metric: str) -> dict[str, Any]:
    # By default MLflow smooths curves, so that the last point is not the measured value.
    as_measured = {"lineSmoothness": 0, "useGlobalLineSmoothing": False}
    return _chart(
        "LINE", metric, {"metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "step", **as_measured}
    )


def _metric(name: str) -> dict[str, str]:
    return {"key": name, "type": "METRIC"}


def _chart(kind: str, key: str, shown: Mapping[str, Any]) -> dict[str, Any]:
    usual = {"runsCountToCompare": 100, "metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    return {"uuid": key, "type": kind, **usual, **shown}
