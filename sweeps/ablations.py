"""The ablations of Section 5: MMPO at beta = 0.05, each time with one part taken out or added, for five epochs.

mmpo ablations --model tiny
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from mmpo_train.options import NotTaken
from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import ABLATIONS
from sweeps.plan.stages import Stage, stage_of
from sweeps.search.stage import run_script
from sweeps.trials.runner import Runner


@dataclass(frozen=True, kw_only=True)
class AblationOptions(SweepOptions):
    """MMPO's ablations, with the learning rate and r_eps that the stages chose."""

    varied: ClassVar[tuple[str, ...]] = tuple(ABLATIONS.settles)

    objective: Annotated[str, *NotTaken] = "mmpo"
    learning_rate: float | None = None
    """Learning rate of all trials. Default: the one that stage 1 chose."""
    r_eps: float | None = None
    """MMPO's r_eps. Default: the one that stage 3 chose."""


def ablations(options: AblationOptions) -> Stage:
    """MMPO in full; without auxiliary term, without in-batch normalisation, with length normalisation, with entropy."""
    return stage_of(
        ABLATIONS,
        options.objective,
        values=tuple(grids.ABLATIONS),
        variants=grids.ABLATIONS,
        settings=grids.SEARCH_SETTINGS | {"epochs": grids.FINAL_EPOCHS, "beta": grids.ABLATION_BETA},
        run_name="{}",
    )


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> None:
    """Run them from the command line."""
    run_script(ABLATIONS, AblationOptions, ablations, arguments, runner)


if __name__ == "__main__":
    main()
