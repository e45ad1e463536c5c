"""Stage 1 of Appendix B.1: the most effective learning rate, from six, in up to two epochs each.

python sweeps/stage1_lr.py --objective mmpo --model tiny
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mmpo_train.terminal import run_program
from sweeps import grids
from sweeps.options import SweepOptions
from sweeps.stage import Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class Stage1Options(SweepOptions):
    """Stage 1: find the learning rate. Without arguments it tunes MMPO on the embedded default."""

    learning_rates: tuple[float, ...] = grids.LEARNING_RATES
    """The grid."""


STAGE = Stage(
    name="stage1_lr",
    title="Stage 1, learning rate",
    axis="learning_rate",
    short_axis="lr",
    values=grids.LEARNING_RATES,
    settings=grids.STAGE1_SETTINGS,
    log_axis=True,
    next_command="python sweeps/stage2_beta.py",
)


def main(arguments: list[str] | None = None) -> None:
    """Run the stage from the command line."""

    def program(options: Stage1Options) -> None:
        run_stage(dataclasses.replace(STAGE, values=options.learning_rates), options)

    run_program(Stage1Options, program, "python sweeps/stage1_lr.py", arguments)


if __name__ == "__main__":
    main()
