"""Which searches an experiment has, and the stages of one of them: a report is of one search."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpo_train.config import OBJECTIVE_FIELDS, identity
from mmpo_train.errors import InputError
from sweeps.grids import SEARCH_EPOCHS
from sweeps.ledger.records import SEARCHES, SETTINGS
from sweeps.plan.order import SEARCH
from sweeps.plan.searches import is_part, search_key, telling
from sweeps.reporting.read import Experiment, StageRun, config_of

_RUN = re.compile(r"\(?\b([0-9a-f]{32})\)")


@dataclass(frozen=True)
class Search:
    """Stages that belong together: one key, whatever their objectives are."""

    key: str
    settings: Mapping[str, Any]
    """What tells it from others."""
    stages: tuple[StageRun, ...]

    @property
    def ended_ms(self) -> int:
        return max(stage.ended_ms for stage in self.stages)

    def __str__(self) -> str:
        """`3f2a91c4 (2 epochs; dpo: stage1_lr, final_runs)`."""
        ran: dict[str, list[str]] = {}
        for stage in self.stages:
            ran.setdefault(stage.objective, []).append(stage.name)
        told = [f"{name}: {', '.join(dict.fromkeys(ran[name]))}" for name in OBJECTIVE_FIELDS if name in ran]
        epochs = self.settings.get("epochs")
        about = f"{epochs} epoch{'s' if epochs != 1 else ''}; " if epochs else ""
        return f"{self.key} ({about}{'; '.join(told)})"


def searches_of(experiment: Experiment) -> list[Search]:
    """The searches whose stages the experiment has, the one that ended last first. Studies belong to none."""
    keys = _keys(experiment.stages)
    exact: dict[str, set[str]] = {}
    for stage in experiment.stages:
        for key in keys[stage.run_id]:
            exact.setdefault(key, set()).add(stage.objective)
    searches = []
    for key, objectives in exact.items():
        # DPO's stages alone are no search where one sets a field of MMPO's: they are part of that.
        if any(key != wider and is_part(key, wider) and not objectives & exact[wider] for wider in exact):
            continue
        stages = tuple(
            stage
            for stage in experiment.stages
            if key in keys[stage.run_id]
            or (stage.objective and not keys[stage.run_id])  # nothing is left of its trials: rather here than nowhere
            or (stage.objective not in objectives and any(is_part(one, key) for one in keys[stage.run_id]))
        )
        settings = next((_settings(stage) for stage in stages if SETTINGS in stage.tags), {})
        searches.append(Search(key, settings, stages))
    return sorted(searches, key=lambda one: -one.ended_ms)


def of_search(experiment: Experiment, wanted: Sequence[str] = ()) -> Experiment:
    """The experiment with the stages of one search alone: the one that `wanted` names, else the one that ended last.

    Studies stay.
    """
    searches = searches_of(experiment)
    named = [one for one in searches if _is_named(one, wanted)]
    # If a search has several objectives, its longest key names them all.
    one = max(named or searches[:1], key=lambda found: len(found.key), default=None)
    if one is None:
        return experiment
    ours = {stage.run_id for stage in one.stages}
    kept = tuple(stage for stage in experiment.stages if stage.run_id in ours or not stage.objective)
    others = tuple(str(other) for other in searches if other is not one)
    return dataclasses.replace(experiment, stages=kept, search=str(one), other_searches=others)


def check_searches(wanted: Sequence[str], experiments: Sequence[Experiment]) -> None:
    """Raises InputError, listing the searches, for a key that is none of theirs."""
    there = {one.name: searches_of(one) for one in experiments}
    for key in wanted:
        if not any(_is_named(one, [key]) for searches in there.values() for one in searches):
            known = [f"\n  {name}: {one}" for name, searches in there.items() for one in searches]
            raise InputError(f"there is no search {key!r}; --search takes one of{''.join(known) or ' none'}")


def _is_named(search: Search, wanted: Sequence[str]) -> bool:
    return any(search.key.startswith(key) for key in wanted if key)


def _keys(stages: Sequence[StageRun]) -> dict[str, tuple[str, ...]]:
    """Run of a stage -> the keys of its searches: its tag, or for stages of an older version its settings."""
    keys = {stage.run_id: tuple(stage.tags.get(SEARCHES, "").split()) for stage in stages}
    for stage in stages:
        if not keys[stage.run_id] and SETTINGS in stage.tags:
            keys[stage.run_id] = (search_key(_settings(stage)),)
    for stage in stages:
        if not keys[stage.run_id] and stage.objective:
            keys[stage.run_id] = _key_by_choices(stage, stages, keys) or _key_by_settings(stage, stages)
    return keys


def _key_by_choices(
    stage: StageRun, stages: Sequence[StageRun], keys: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The keys of the first stage from which this one took its values, as its tags name it."""
    said = " ".join(value for name, value in stage.tags.items() if name.startswith("chosen."))
    runs = set(_RUN.findall(said))
    made = (one for one in stages if one.run_id in runs or runs & {child.run_id for child in one.children})
    return next((keys[one.run_id] for one in made if keys[one.run_id]), ())


def _key_by_settings(stage: StageRun, stages: Sequence[StageRun]) -> tuple[str, ...]:
    """The keys of the search that has the same settings; the number of epochs may differ."""
    configs = [trial.record.config for trial in stage.trials if trial.record.config]
    if not configs:
        return ()
    own = identity(config_of(configs[0]))
    lengths = [_settings(one).get("epochs") for one in stages if SETTINGS in one.tags]
    for epochs in sorted({one for one in lengths if one}, key=lambda one: one != SEARCH_EPOCHS):
        asked = telling({**own, "epochs": epochs})
        if stage.name in SEARCH and any(telling(_settings(one)) == asked for one in stages if SETTINGS in one.tags):
            return (search_key({**own, "epochs": epochs}),)
    return (search_key(own),)


def _settings(stage: StageRun) -> dict[str, Any]:
    return {"objective": stage.objective, **json.loads(stage.tags[SETTINGS])}
