"""What a stage found, for a notebook: ranking, winner, a frame of all checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from mmpo_train.config import nearest
from mmpo_train.errors import InputError
from mmpo_train.options import options_given
from mmpo_train.storage.mirror import place_of
from mmpo_train.typed.programs import PROGRAMS
from sweeps.axis import AxisOptions, axis_stage
from sweeps.paper import SCRIPTS
from sweeps.plan.order import SEARCH
from sweeps.plan.stages import known_objective
from sweeps.ranking.winners import Ranked
from sweeps.search.stage import StageOutcome, run_stage
from sweeps.trials.runner import Runner

if TYPE_CHECKING:
    import pandas

STAGES = {
    name: SCRIPTS[script] for name, module in PROGRAMS.items() if (script := module.rpartition(".")[2]) in SCRIPTS
}
STAGES["axis"] = AxisOptions, axis_stage
"""Name of a program -> its options, and what makes the stage of them."""


@dataclass(frozen=True)
class Result:
    """A stage's result."""

    axis: str
    """The field that the stage varied."""
    outcome: StageOutcome

    @property
    def ranking(self) -> list[dict[str, Any]]:
        """The points from best to worst, those without a result last; empty in a dry run."""
        return [] if self.outcome.ranking is None else [self._row(one) for one in self.outcome.ranking.rows]

    @property
    def winner(self) -> dict[str, Any]:
        """The best point: the value on the axis, epoch, reward accuracy, checkpoint. Empty if the stage has none."""
        ranking = self.outcome.ranking
        return {} if ranking is None or ranking.winner is None else self._row(ranking.winner)

    @property
    def reason(self) -> str:
        """Why it won, in a sentence or two."""
        return "" if self.outcome.ranking is None else self.outcome.ranking.reason

    @property
    def frame(self) -> pandas.DataFrame:
        """A row for each checkpoint, and for each trial without one: axis, seed, trial, state, metrics, checkpoint."""
        import pandas

        rows: list[dict[str, Any]] = []
        for point in self.outcome.points:
            for trial in point.trials:
                record = self.outcome.records.get(trial.digest)
                of_trial = {self.axis: point.value, "seed": trial.config.seed, "trial": trial.digest}
                of_trial["state"] = record.status if record is not None else "new"
                scored = record.evaluations if record is not None else ()
                found = [{"epoch": one.epoch, **one.metrics, "checkpoint": place_of(one.checkpoint)} for one in scored]
                rows += [of_trial | one for one in found or [{}]]
        return pandas.DataFrame(rows)

    @property
    def checkpoints(self) -> dict[Any, Path]:
        """Value on the axis -> its best checkpoint, of the first seed; each opens with `from_pretrained`."""
        return {row[self.axis]: row["checkpoint"] for row in self.ranking if "checkpoint" in row}

    def _row(self, one: Ranked) -> dict[str, Any]:
        candidate = one.candidate
        row = {self.axis: candidate.value, "state": candidate.state}
        if candidate.state != "finished":
            return row
        return row | {
            "epoch": candidate.epoch,
            "reward_accuracy": mean(mean(seed.correct) for seed in one.seeds),
            "measure": one.accuracy,
            "interval": one.interval,
            "p_value": one.p_value,
            "checkpoint": place_of(candidate.extra["checkpoint"]),
        }


def run(name: str, options: Mapping[str, Any], runner: Runner | None = None) -> Result:
    """Run the stage of that name. Raises InputError for an unknown one, and where `mmpo.sweep` does."""
    if name not in STAGES:
        raise InputError(f"there is no stage {name!r}{nearest(name, STAGES)}")
    options_of, stage_of = STAGES[name]
    given = options_given(options, options_of)
    place = SEARCH.get(PROGRAMS[name].rpartition(".")[2])
    if place is not None and known_objective(given.objective) not in place.objectives:
        raise InputError(place.for_others.format(given.objective) or f"{name} is not for {given.objective}")
    stage = stage_of(given)
    return Result(stage.axis, run_stage(stage, given, runner))
