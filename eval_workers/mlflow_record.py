"""One MLflow run for a model that was judged by itself. Sweeps have a ledger of their own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXPERIMENT = "evaluations"


def _artifacts(uri: str) -> str | None:
    """Beside a database; a server has a place of its own. MLflow would take ./mlruns, wherever that is."""
    database = uri.removeprefix("sqlite:///")
    return (Path(database).resolve().parent / "mlartifacts").as_uri() if database != uri else None


def record(uri: str, name: str, params: Mapping[str, Any], metrics: Mapping[str, float], folder: Path) -> None:
    """A finished run with the folder's files as artifacts. Raises InputError where MLflow cannot be used."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    from mmpo_train.errors import InputError

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it announces the tables that it makes
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, _artifacts(uri))
        run = client.create_run(experiment, run_name=name)
        now = run.info.start_time
        client.log_batch(
            run.info.run_id,
            [Metric(key, value, now, 0) for key, value in metrics.items()],
            [Param(key, str(value)) for key, value in params.items()],
        )
        client.log_artifacts(run.info.run_id, str(folder))
        client.set_terminated(run.info.run_id, "FINISHED")
    except MlflowException as error:
        raise InputError(f"MLflow cannot be used as given with --mlflow-uri ({str(error)[:200]})") from None
