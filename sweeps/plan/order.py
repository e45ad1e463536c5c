"""The order of the search (Appendix B.1) as one table: what each stage varies, for which objectives, and what follows.

Commands, the whole search, the joint search, later stages' choices and the report all read it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpo_train.config import OBJECTIVE_FIELDS
from sweeps import grids
from sweeps.grids import margin_of


@dataclass(frozen=True, kw_only=True)
class SearchStage:
    """A stage of the search."""

    name: str
    """Name of its script."""
    title: str
    """Its title; {} stands for the axis if objectives differ in it."""
    axes: Mapping[str, Sequence[Any]]
    """Axis -> its grid. If there are several axes, each objective has one of them."""
    quick: Mapping[str, Sequence[Any]]
    """Axis -> its grid for `sweeps/paper.py --quick`."""
    quick_epochs: int = grids.QUICK_EPOCHS
    option: str = ""
    """The field of the script's options for another grid; empty if the grid is fixed."""
    takes: Collection[str] = ()
    """Fields that earlier stages chose; the script has an option for each."""
    settles: Collection[str] = ()
    """Fields that it sets besides its axis; --set is not repeated for them."""
    is_last: bool = False
    """Whether the search ends with it: every epoch is judged by all evaluations, and no later stage takes its winner's
    value."""
    objectives: Collection[str] = field(default_factory=OBJECTIVE_FIELDS.keys)
    """Objectives that have the stage."""
    for_others: str = ""
    """Message of its script to other objectives."""

    def axis(self, objective: str) -> str:
        """The field that the stage varies for an objective."""
        return _of(objective, self.axes)[0]

    def chosen(self, objective: str) -> tuple[str, ...]:
        """The fields that the stage takes from earlier ones, for an objective."""
        return _of(objective, self.takes)


STAGE_0 = "stage0_sft"
"""Instruction tuning, which makes a starting model and searches nothing."""
STAGE_1 = SearchStage(
    name="stage1_lr",
    title="Stage 1, learning rate",
    axes={"learning_rate": grids.LEARNING_RATES},
    quick={"learning_rate": grids.QUICK_LEARNING_RATES},
    option="learning_rates",
)
STAGE_2 = SearchStage(
    name="stage2_beta",
    title="Stage 2, beta",
    axes={"beta": grids.BETAS},
    quick={"beta": grids.QUICK_BETAS},
    option="betas",
    takes=("learning_rate",),
)
STAGE_3 = SearchStage(
    name="stage3_margin",
    title="Stage 3, {}",
    axes=grids.MARGINS,
    quick=grids.QUICK_MARGINS,
    option="margins",
    takes=("learning_rate", "beta"),
    objectives=tuple(filter(margin_of, OBJECTIVE_FIELDS)),
    for_others="{} has no margin to tune; nothing was started",
)
FINAL_RUNS = SearchStage(
    name="final_runs",
    title="Final runs",
    axes={"beta": grids.FINAL_BETAS},
    quick={"beta": grids.QUICK_FINAL_BETAS},
    quick_epochs=grids.QUICK_FINAL_EPOCHS,
    option="betas",
    takes=("learning_rate", *grids.MARGINS),
    settles=("epochs",),
    is_last=True,
)
ABLATIONS = SearchStage(
    name="ablations",
    title="Ablations",
    axes={"variant": tuple(grids.ABLATIONS)},
    quick={"variant": tuple(grids.ABLATIONS)},
    takes=("learning_rate", "r_eps"),
    settles=tuple(name for fields in grids.ABLATIONS.values() for name in fields),
    is_last=True,
    objectives=("mmpo",),
)
SEARCH = {stage.name: stage for stage in (STAGE_1, STAGE_2, STAGE_3, FINAL_RUNS, ABLATIONS)}
"""The stages by name, in order."""

DECIDED_IN = {axis: stage.name for stage in SEARCH.values() if not stage.is_last for axis in stage.axes}
"""Tuned field -> the stage whose winner later ones take."""

TUNED = tuple(DECIDED_IN)


def search_of(objective: str) -> list[SearchStage]:
    """The stages that an objective has, in order."""
    return [stage for stage in SEARCH.values() if objective in stage.objectives]


def tuned_grids(objective: str) -> dict[str, Sequence[Any]]:
    """Field -> grid, for all fields that the search tunes for an objective, in order."""
    return {axis: SEARCH[DECIDED_IN[axis]].axes[axis] for axis in _of(objective, TUNED)}


def next_script(script: str, objective: str) -> str:
    """The script that follows for an objective; empty after the last, and for scripts outside the search."""
    names = list(SEARCH)
    later = names[names.index(script) + 1 :] if script in names else []
    return next((name for name in later if objective in SEARCH[name].objectives), "")


def settled(script: str) -> set[str]:
    """Fields that a stage and those before it decide, so that --set is not repeated for it."""
    names = list(SEARCH)
    earlier = names[: names.index(script) + 1]
    return {axis for axis in TUNED if DECIDED_IN[axis] in earlier} | set(SEARCH[script].settles)


def _of(objective: str, fields: Collection[str]) -> tuple[str, ...]:
    """The fields without the margins of other objectives."""
    return tuple(name for name in fields if name not in grids.MARGINS or name == margin_of(objective))
