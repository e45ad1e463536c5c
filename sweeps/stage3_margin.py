"""Stage 3 of Appendix B.1: with learning rate and beta fixed, r_eps for MMPO and gamma/beta for SimPO.

python sweeps/stage3_margin.py --objective mmpo --model tiny
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpo_train.terminal import console, run_program
from sweeps import grids
from sweeps.plan.commands import as_typed, command
from sweeps.plan.options import SweepOptions
from sweeps.plan.stages import known_objective
from sweeps.search.stage import Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class Stage3Options(SweepOptions):
    """Stage 3: find the margin, at the learning rate and beta that stages 1 and 2 chose."""

    margins: tuple[float, ...] = ()
    """The grid. Default: the paper's for the objective."""
    learning_rate: float | None = None
    """Instead of stage 1's choice."""
    beta: float | None = None
    """Instead of stage 2's choice."""


def stage3(options: Stage3Options, axis: str) -> Stage:
    """The objective's margins at the chosen learning rate and beta."""
    return Stage(
        name="stage3_margin",
        title=f"Stage 3, {axis.replace('gamma_over_beta', 'gamma/beta')}",
        axis=axis,
        run_name="r_eps={}" if axis == "r_eps" else "ratio={}",
        values=options.margins or grids.MARGINS[axis],
        option="--margins",
        settings=grids.SEARCH_SETTINGS,
        chosen=("learning_rate", "beta"),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the stage from the command line."""

    def program(options: Stage3Options) -> None:
        objective = known_objective(options.objective)
        axis = grids.margin_of(objective)
        if axis:
            run_stage(stage3(options, axis), options)
        else:
            console.print(f"{objective} has no margin to tune: nothing to do, nothing was started", highlight=False)
            following = as_typed(command("final_runs", options))
            console.print(f"next: {following}", highlight=False, soft_wrap=True, markup=False)

    run_program(Stage3Options, program, "python sweeps/stage3_margin.py", arguments)


if __name__ == "__main__":
    main()
