"""Models in MLflow: a checkpoint of a run, named by its path, with its numbers; and registered models with versions.

Weights are not copied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval_workers.tracking.store import Store, all_pages, param_text, text, unless

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

EPOCH, CHECKPOINT = "epoch", "checkpoint"
"""Tags of a model."""
# So that MLflow's pages look for no files of the model.
_EXTERNAL = {"mlflow.model.isExternal": "true"}
# Where a batch repeats one, MLflow compares a hundred names at a time, and fails on more.
_METRICS_PER_BATCH = 100


@dataclass(frozen=True)
class Checkpoints:
    """The judged checkpoints of a run."""

    name: str
    """Of the run."""
    paths: Mapping[int, str]
    """Epoch -> checkpoint."""
    params: Mapping[str, Any]
    scores: Sequence[tuple[str, float, int, int]] = ()
    """(name, value, timestamp in ms, epoch), as the run has them."""


def models_of(store: Store, experiment_id: str, run_id: str) -> dict[int, LoggedModel]:
    """Epoch -> model of the run's checkpoints. Of two, which a request that was sent twice makes, the first stays."""
    found: dict[int, LoggedModel] = {}
    every = all_pages(store.client.search_logged_models, [experiment_id], f"source_run_id = '{run_id}'")
    for model in sorted(every, key=lambda one: (one.creation_timestamp, one.model_id)):
        if EPOCH in model.tags and found.setdefault(int(model.tags[EPOCH]), model) is not model:
            store.client.delete_logged_model(model.model_id)
    return found


def log_checkpoints(store: Store, run_id: str, checkpoints: Checkpoints) -> dict[int, LoggedModel]:
    """Write a model for each checkpoint, and its scores. A repetition adds what is missing. Returns epoch -> model."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    run = store.client.get_run(run_id)
    models = models_of(store, run.info.experiment_id, run_id)
    missing = {epoch: path for epoch, path in checkpoints.paths.items() if epoch not in models}
    for epoch, path in missing.items():
        name = re.sub(r"""[/:.%"']""", "_", text(f"{checkpoints.name}, epoch {epoch}"))
        tags = {EPOCH: str(epoch), CHECKPOINT: text(path), **_EXTERNAL}
        params = {name: param_text(name, value) for name, value in checkpoints.params.items()}
        models[epoch] = store.client.create_logged_model(run.info.experiment_id, name, run_id, tags, params)
    if missing and store.address.remote:
        models = models_of(store, run.info.experiment_id, run_id)
    shown = {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
    outputs = [(one.model_id, epoch) for epoch, one in sorted(models.items()) if one.model_id not in shown]
    if outputs:
        store.client.log_outputs(run_id, [LoggedModelOutput(*output) for output in outputs])
    scores = [one for one in checkpoints.scores if one[3] in models]
    for start in range(0, len(scores), _METRICS_PER_BATCH):
        some = scores[start : start + _METRICS_PER_BATCH]
        batch = [Metric(*one, model_id=models[one[3]].model_id) for one in some]
        store.client.log_batch(run_id, metrics=batch)
    for model in models.values():
        if model.status != LoggedModelStatus.READY:
            store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return models


def registered_model(store: Store, name: str) -> RegisteredModel | None:
    """The registered model of this name, if there is one."""
    with unless("RESOURCE_DOES_NOT_EXIST"):
        return store.client.get_registered_model(name)
    return None


def create_registered_model(store: Store, name: str, said: str) -> RegisteredModel:
    """Make it, with a description, unless another process was faster."""
    with unless("RESOURCE_ALREADY_EXISTS"):
        return store.client.create_registered_model(name, description=said)
    return store.client.get_registered_model(name)


def versions_of(store: Store, name: str) -> list[ModelVersion]:
    """All versions of a registered model, whose name has no quotes."""
    return all_pages(store.client.search_model_versions, f"name = '{name}'")
