"""The final runs of Appendix B.1: five epochs for each of three betas, with the tuned learning rate and margin.

python sweeps/final_runs.py --objective mmpo --model tiny --set evaluations=reward,harness,alpaca
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpo_train.terminal import run_program
from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.stages import known_objective
from sweeps.search.stage import Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class FinalOptions(SweepOptions):
    """The final runs: five epochs, every checkpoint judged by all that --set evaluations=… names."""

    betas: tuple[float, ...] = grids.FINAL_BETAS
    """What is trained with."""
    learning_rate: float | None = None
    """Instead of stage 1's choice."""
    r_eps: float | None = None
    """Instead of stage 3's choice (MMPO)."""
    gamma_over_beta: float | None = None
    """Instead of stage 3's choice (SimPO)."""


def final_runs(options: FinalOptions) -> Stage:
    """Betas with the chosen learning rate and margin."""
    margin = grids.margin_of(known_objective(options.objective))
    return Stage(
        name="final_runs",
        title="Final runs",
        axis="beta",
        run_name="final b={}",
        values=options.betas,
        option="--betas",
        settings=grids.SEARCH_SETTINGS | {"epochs": grids.FINAL_EPOCHS},
        chosen=("learning_rate", margin) if margin else ("learning_rate",),
        log_axis=True,
        by_epoch=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run them from the command line."""
    run_program(
        FinalOptions, lambda options: run_stage(final_runs(options), options), "python sweeps/final_runs.py", arguments
    )


if __name__ == "__main__":
    main()
