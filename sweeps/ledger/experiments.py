"""The MLflow experiment of a model and its data: one for each content, with the shortest name that is free.

sft on train.jsonl                       the first of this name
sft on v2/train.jsonl                    other data of the same name
sft on v2/train.jsonl (3fa9c1)           other data at the same place
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eval_workers.tracking.store import Store, param_text
from mmpo_train.config import TrialConfig, digest_of
from mmpo_train.sft.trial import SFTTrial
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.records import DATA, LONG_NAME, MODEL, SHORT_NAME

if TYPE_CHECKING:
    from mlflow.entities import Experiment

    from mmpo_train.training import AnyInputs


def experiment_name(config: TrialConfig | SFTTrial) -> str:
    """The short name of the experiment, which it has unless another model or other data have it already."""
    return _named(config, Path(config.model).name, [Path(source).name for source in config.dataset])


def experiment_of(ledger: Ledger | None, inputs: AnyInputs, *, create: bool = False) -> str:
    """The name of the experiment of these inputs; a free name if there is none, which `create` creates."""
    config, short = inputs.config, experiment_name(inputs.config)
    if ledger is None:
        return short
    own = {MODEL: config.model_fingerprint, DATA: inputs.data.content}
    with ledger.store.reading():
        if tagged := ledger.store.experiments(own):
            return str(tagged[0].name)
        first = ledger.store.experiment(short)
        for name in dict.fromkeys((short, *_longer_names(config, own, first))):
            there = ledger.store.experiment(name)
            if there is None and create:  # another process may be faster
                ledger.store.create_experiment(name, {**own, SHORT_NAME: short, LONG_NAME: _long_name(config)})
                there = ledger.store.experiment(name)
            if there is None or _holds(ledger.store, there, own, config):
                return name
    raise AssertionError("the last name has a digest of its own")


def experiments_called(ledger: Ledger, config: TrialConfig) -> list[str]:
    """Names of the experiments of this model's and data's names; if some also have the same folders, only those."""
    short, long = experiment_name(config), _long_name(config)
    with ledger.store.reading():
        found = ledger.store.experiments({SHORT_NAME: short})
        first = ledger.store.experiment(short)
    closest = [one.name for one in found if one.tags[LONG_NAME] == long]
    others = [one.name for one in found] + ([short] if first is not None else [])
    return closest or list(dict.fromkeys(others)) or [short]


def _holds(store: Store, there: Experiment, own: dict[str, str], config: TrialConfig | SFTTrial) -> bool:
    """Whether an experiment has this content. For one without tags, of an earlier version, its trials decide."""
    if MODEL in there.tags:
        return all(there.tags.get(name) == value for name, value in own.items())
    trials = [run.data.params for run in store.search(there.experiment_id, {"ledger.kind": "trial"})]
    trials = [params for params in trials if "model_fingerprint" in params]
    of_model = [params for params in trials if params["model_fingerprint"] == config.model_fingerprint]
    given = param_text("dataset", config.dataset)
    return not trials or any(
        params.get("data_fingerprint") == config.data_fingerprint or params.get("dataset") == given
        for params in of_model
    )


def _longer_names(config: TrialConfig | SFTTrial, own: dict[str, str], first: Experiment | None) -> list[str]:
    """Other names for the experiment, if another one has the short name."""
    tags = first.tags if first is not None else {}
    models, sources = _in_folder(config.model), list(map(_in_folder, config.dataset))
    if tags.get(MODEL) == own[MODEL]:
        models = Path(config.model).name
    if tags.get(DATA) == own[DATA]:
        sources = [Path(source).name for source in config.dataset]
    name = _named(config, models, sources)
    with_digest = f"{name} ({digest_of([own[MODEL], own[DATA]])[:6]})"
    return [with_digest] if tags.get(LONG_NAME) == _long_name(config) else [name, with_digest]


def _long_name(config: TrialConfig | SFTTrial) -> str:
    return _named(config, _in_folder(config.model), list(map(_in_folder, config.dataset)))


def _in_folder(name: str) -> str:
    """The last two parts of a path, or a hub id; a single word such as `tiny` is unchanged."""
    local = "/" in name or os.path.exists(name)
    return "/".join(Path(os.path.abspath(os.path.expanduser(name))).parts[-2:]) if local else name


def _named(config: TrialConfig | SFTTrial, model: str, sources: list[str]) -> str:
    tuning = ", instruction tuning" if isinstance(config, SFTTrial) else ""
    return f"{model} on {'+'.join(sources)}{tuning}"
