"""Stage 1 of Appendix B.1: the most effective learning rate, from six, in up to two epochs each.

python sweeps/stage1_lr.py --objective mmpo --model tiny
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpo_train.terminal import run_program
from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.search.stage import Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class Stage1Options(SweepOptions):
    """Stage 1: find the learning rate. Without arguments it tunes MMPO on the embedded default."""

    learning_rates: tuple[float, ...] = grids.LEARNING_RATES
    """The grid."""


def stage1(options: Stage1Options) -> Stage:
    """Learning rates, with beta, r_eps and gamma/beta at their defaults."""
    return Stage(
        name="stage1_lr",
        title="Stage 1, learning rate",
        axis="learning_rate",
        run_name="lr={}",
        values=options.learning_rates,
        option="--learning-rates",
        settings=grids.SEARCH_SETTINGS,
        log_axis=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_program(
        Stage1Options, lambda options: run_stage(stage1(options), options), "python sweeps/stage1_lr.py", arguments
    )


if __name__ == "__main__":
    main()
