"""Stage 3 of Appendix B.1: with learning rate and beta fixed, r_eps for MMPO and gamma/beta for SimPO.

mmpo stage3 --objective mmpo --model tiny
"""

from dataclasses import dataclass
from typing import ClassVar

from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import STAGE_3
from sweeps.plan.stages import Stage, stage_of
from sweeps.search.stage import run_script
from sweeps.trials.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Stage3Options(SweepOptions):
    """Stage 3: find the margin, at the learning rate and beta chosen before."""

    varied: ClassVar[tuple[str, ...]] = tuple(STAGE_3.axes)

    margins: tuple[float, ...] = ()
    """The margins to try: r_eps for MMPO, gamma/beta for SimPO. Default: the paper's grid."""
    learning_rate: float | None = None
    """Learning rate of all trials. Default: the one that stage 1 chose."""
    beta: float | None = None
    """Beta of all trials. Default: the one that stage 2 chose."""


def stage3(options: Stage3Options) -> Stage:
    """The objective's margins at the chosen learning rate and beta."""
    axis = grids.margin_of(options.objective)
    return stage_of(
        STAGE_3,
        options.objective,
        values=options.margins or grids.MARGINS[axis],
        settings=grids.SEARCH_SETTINGS,
        run_name="r_eps={}" if axis == "r_eps" else "ratio={}",
    )


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> None:
    """Run the stage from the command line."""
    run_script(STAGE_3, Stage3Options, stage3, arguments, runner)


if __name__ == "__main__":
    main()
