"""A stage's registered model in MLflow: a version for each of its best points, and the alias `chosen` on the winner.

The alias follows the rule, and the tag `winner=person` of a run. Once a person has moved it, it stays, and that person
has chosen for the next stage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from eval_workers.tracking import models
from eval_workers.tracking.store import Store, text
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.runs import BY_PERSON, WINNER, children_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

ALIAS, REGISTERED = "chosen", "stage.registered_model"
"""The alias, and the tag of a stage that names its registered model."""
MOST = 10
"""Points of a stage that get a version; those of a larger grid are chosen by the tag."""
_WRITTEN = "chosen.written"
"""Tag of the registered model: the version, or versions, on which the program may have put the alias."""


class Contender(NamedTuple):
    """A point of a stage at its best epoch."""

    record: TrialRecord
    """Of its first seed."""
    epoch: int
    digests: Sequence[str]
    """Of the trials of all its seeds."""
    said: str
    """What a person reads at the version."""


def register(store: Store, stage_run_id: str, experiment: str, title: str, contenders: Sequence[Contender]) -> None:
    """Write versions for the first of the contenders, and put the alias on the one that a person tagged, or the first.

    A repetition adds what is missing; an alias that a person moved stays.
    """
    stage = store.client.get_run(stage_run_id)
    experiment_id = stage.info.experiment_id
    usual = re.sub(r"""[/:'"%]""", "-", text(f"{experiment}, {title} ({stage_run_id[:8]})"))
    name = stage.data.tags.get(REGISTERED) or usual
    model = models.registered_model(store, name) or models.create_registered_model(
        store,
        name,
        f"The best points of {title}. The alias `{ALIAS}` is on the one that the next stage takes. Move it to another "
        "version to choose that one. Checkpoints are named by their path; weights are not copied.",
    )
    children = children_of(store, experiment_id, stage_run_id)
    tagged = {child.digest for child in children if child.tags.get(WINNER) == BY_PERSON}
    chosen = next((one for one in contenders if tagged & set(one.digests)), contenders[0])
    versions = {(one.run_id, one.tags.get(models.EPOCH)): one for one in models.versions_of(store, name)}
    for one in (*contenders[:MOST], chosen):
        if (one.record.run_id, str(one.epoch)) not in versions:
            versions[one.record.run_id, str(one.epoch)] = _version(store, name, experiment_id, one)
    _move(store, model, versions[chosen.record.run_id, str(chosen.epoch)])
    if REGISTERED not in stage.data.tags:
        store.log_tags(stage_run_id, {REGISTERED: name})


def persons_run(store: Store, name: str) -> str:
    """The run whose version a person gave the alias; empty if the program put it where it is, or there is none."""
    model = models.registered_model(store, name) if name else None
    version = _moved_to(model) if model is not None else ""
    return store.client.get_model_version(name, version).run_id or "unknown" if version else ""


def _moved_to(model: RegisteredModel) -> str:
    now, written = model.aliases.get(ALIAS), model.tags.get(_WRITTEN, "").split()
    return str(now) if now is not None and written and str(now) not in written else ""


def _move(store: Store, model: RegisteredModel, to: ModelVersion) -> None:
    if _moved_to(model):
        return
    now, wanted = model.aliases.get(ALIAS), str(to.version)
    if str(now) != wanted:
        # Both, or a kill between the two writes would look like a person's move.
        store.client.set_registered_model_tag(model.name, _WRITTEN, f"{now} {wanted}")
        store.client.set_registered_model_alias(model.name, ALIAS, wanted)
    if model.tags.get(_WRITTEN) != wanted:
        store.client.set_registered_model_tag(model.name, _WRITTEN, wanted)


def _version(store: Store, name: str, experiment_id: str, one: Contender) -> ModelVersion:
    """A version that names the model of a checkpoint, which is written for a trial of an earlier version."""
    run_id = one.record.run_id
    made = models.models_of(store, experiment_id, run_id)
    path = next(judged.checkpoint for judged in one.record.evaluations if judged.epoch == one.epoch)
    if one.epoch not in made:
        made = models.log_checkpoints(store, run_id, models.Checkpoints(one.record.name, {one.epoch: path}, {}))
    model = made[one.epoch]
    tags = {models.EPOCH: str(one.epoch), models.CHECKPOINT: text(path)}
    about: dict[str, Any] = {"tags": tags, "description": text(one.said), "model_id": model.model_id}
    return store.client.create_model_version(name, model.artifact_location, run_id, await_creation_for=0, **about)
