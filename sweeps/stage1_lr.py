"""Stage 1 of Appendix B.1: the most effective learning rate, from six, in up to two epochs each.

mmpo stage1 --objective mmpo --model tiny
"""

from dataclasses import dataclass
from typing import ClassVar

from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import STAGE_1
from sweeps.plan.stages import Stage, stage_of
from sweeps.search.stage import run_script
from sweeps.trials.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Stage1Options(SweepOptions):
    """Stage 1: find the learning rate. By default it tunes MMPO on tiny."""

    varied: ClassVar[tuple[str, ...]] = tuple(STAGE_1.axes)

    learning_rates: tuple[float, ...] = grids.LEARNING_RATES
    """The learning rates to try."""


def stage1(options: Stage1Options) -> Stage:
    """Learning rates, with beta, r_eps and gamma/beta at their defaults."""
    return stage_of(
        STAGE_1,
        options.objective,
        values=options.learning_rates,
        settings=grids.SEARCH_SETTINGS,
        run_name="lr={}",
        log_axis=True,
    )


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> None:
    """Run the stage from the command line."""
    run_script(STAGE_1, Stage1Options, stage1, arguments, runner)


if __name__ == "__main__":
    main()
