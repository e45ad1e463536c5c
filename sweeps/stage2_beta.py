"""Stage 2 of Appendix B.1: using the selected learning rate, an optimal beta from four.

mmpo stage2 --objective mmpo --model tiny
"""

from dataclasses import dataclass
from typing import ClassVar

from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import STAGE_2
from sweeps.plan.stages import Stage, stage_of
from sweeps.search.stage import run_script
from sweeps.trials.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Stage2Options(SweepOptions):
    """Stage 2: find beta, at the learning rate that stage 1 chose."""

    varied: ClassVar[tuple[str, ...]] = tuple(STAGE_2.axes)

    betas: tuple[float, ...] = grids.BETAS
    """The betas to try."""
    learning_rate: float | None = None
    """Learning rate of all trials. Default: the one that stage 1 chose."""


def stage2(options: Stage2Options) -> Stage:
    """Betas at the chosen learning rate, with r_eps and gamma/beta at their defaults."""
    return stage_of(
        STAGE_2,
        options.objective,
        values=options.betas,
        settings=grids.SEARCH_SETTINGS,
        run_name="beta={}",
        log_axis=True,
    )


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> None:
    """Run the stage from the command line."""
    run_script(STAGE_2, Stage2Options, stage2, arguments, runner)


if __name__ == "__main__":
    main()
