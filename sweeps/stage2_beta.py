"""Stage 2 of Appendix B.1: using the selected learning rate, an optimal beta from four.

python sweeps/stage2_beta.py --objective mmpo --model tiny
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpo_train.terminal import run_program
from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.search.stage import Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class Stage2Options(SweepOptions):
    """Stage 2: find beta, at the learning rate that stage 1 chose."""

    betas: tuple[float, ...] = grids.BETAS
    """The grid."""
    learning_rate: float | None = None
    """Instead of stage 1's choice."""


def stage2(options: Stage2Options) -> Stage:
    """Betas at the chosen learning rate, with r_eps and gamma/beta at their defaults."""
    return Stage(
        name="stage2_beta",
        title="Stage 2, beta",
        axis="beta",
        run_name="beta={}",
        values=options.betas,
        option="--betas",
        settings=grids.SEARCH_SETTINGS,
        chosen=("learning_rate",),
        log_axis=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    run_program(
        Stage2Options, lambda options: run_stage(stage2(options), options), "python sweeps/stage2_beta.py", arguments
    )


if __name__ == "__main__":
    main()
