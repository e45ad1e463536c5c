"""A stage as a value: its axis, its fixed fields, and the points of its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmpo_train.config import TrialConfig, parse_assignments, replace
from mmpo_train.errors import InputError
from mmpo_train.options import base_config
from mmpo_train.recipes import objective_settings
from sweeps.grids import SEARCH_EPOCHS
from sweeps.plan.labels import option, shown, words
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import DECIDED_IN, SearchStage
from sweeps.plan.trials import Planned

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs


@dataclass(frozen=True)
class GridPoint:
    """One point of a stage: the same trial with each seed."""

    label: str
    """Its value on the axis, as tables and figures show it."""
    value: Any
    trials: tuple[Planned, ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: the field that it varies, the values, and the fields that are fixed or were chosen before."""

    name: str
    """Name of its script."""
    title: str
    axis: str
    run_name: str
    """A trial's name in MLflow, which cuts labels at ten characters; {} is its value on the axis."""
    values: tuple[Any, ...]
    option: str = ""
    """The option for other values; empty if the values are fixed."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Value of the axis -> the fields that it stands for, if the axis is not a field of a trial."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the stage fixes unless the user sets them."""
    chosen: tuple[str, ...] = ()
    """Fields whose values earlier stages chose, in the order of the stages."""
    log_axis: bool = False
    """Whether the axis is drawn logarithmically."""
    by_epoch: bool = False
    """Whether every epoch is shown, not only the best one."""
    search_epochs: int = SEARCH_EPOCHS
    """Epochs of the search whose choices final runs and ablations take if there are several."""

    @property
    def tunes(self) -> bool:
        """Whether later stages take its winner's value."""
        return self.name in DECIDED_IN.values()

    def points(self, base: TrialConfig, inputs: Inputs, seeds: int = 1) -> list[GridPoint]:
        """The points of the grid in order. Raises InputError for a value that is given twice."""
        labels = [shown(self.axis, value) for value in self.values]
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated or not labels:
            given = f"has {', '.join(repeated)} twice" if repeated else "is empty"
            raise InputError(f"{self.option} {given}; give each value of the grid once")
        if seeds < 1:
            raise InputError(f"--seeds must be at least 1, got {seeds}")
        points = []
        for label, value in zip(labels, self.values, strict=True):
            config = replace(base, self.variants[value] if self.variants else {self.axis: value})
            trials = []
            for seed in range(base.seed, base.seed + seeds):
                of_seed = (f", seed {seed}", f" s{seed}") if seeds > 1 else ("", "")
                names = label + of_seed[0], self.run_name.format(label) + of_seed[1]
                trials.append(Planned(replace(config, {"seed": seed}), inputs, *names))
            points.append(GridPoint(label, value, tuple(trials)))
        return points


def stage_of(place: SearchStage, objective: str, **own: Any) -> Stage:
    """A stage of the search for an objective; `own` has the fields that only its script knows, such as its values."""
    axis = place.axis(objective)
    own |= {"option": option(place.option) if place.option else "", "chosen": place.chosen(objective)}
    return Stage(name=place.name, title=place.title.format(words(axis)), axis=axis, by_epoch=place.is_last, **own)


def known_objective(objective: str) -> str:
    """The objective's name. Raises InputError for an unknown one."""
    return replace(TrialConfig(), {"objective": objective}).objective


def stage_config(stage: Stage, options: SweepOptions, precision: str) -> TrialConfig:
    """The config that the stage's trials share. Fields that the user sets override the stage's own settings."""
    assigned = parse_assignments(options.set)
    varied = {name for fields in stage.variants.values() for name in fields} or {stage.axis}
    for name in assigned:
        if name in varied:
            advice = f"; give its values with {stage.option}" if stage.option else ""
            raise InputError(f"{stage.name} varies {name}, so --set {name}=… is not allowed{advice}")
        if name in stage.chosen:
            raise InputError(f"use {option(name)} instead of --set {name}=…")
    own = {**stage.settings, **objective_settings(options.objective)}
    base = replace(base_config(options), {name: value for name, value in own.items() if name not in assigned})
    return replace(base, {"precision": precision}) if base.precision == "auto" else base
