"""The ablations of Section 5: MMPO at beta = 0.05, each time with one part taken out or added, for five epochs.

python sweeps/ablations.py --model tiny
"""

from __future__ import annotations

from dataclasses import dataclass

from mmpo_train.terminal import console, run_program
from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.stages import known_objective
from sweeps.search.stage import Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class AblationOptions(SweepOptions):
    """MMPO's ablations, with the tuned learning rate and r_eps. The full one is the final run with beta = 0.05."""

    learning_rate: float | None = None
    """Instead of stage 1's choice."""
    r_eps: float | None = None
    """Instead of stage 3's choice."""


def ablations(_: AblationOptions) -> Stage:
    """MMPO in full; without auxiliary term, without in-batch normalisation, with length normalisation, with entropy."""
    return Stage(
        name="ablations",
        title="Ablations",
        axis="variant",
        run_name="{}",
        values=tuple(grids.ABLATIONS),
        variants=grids.ABLATIONS,
        settings=grids.SEARCH_SETTINGS | {"epochs": grids.FINAL_EPOCHS, "beta": grids.ABLATION_BETA},
        chosen=("learning_rate", "r_eps"),
        by_epoch=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run them from the command line."""

    def program(options: AblationOptions) -> None:
        objective = known_objective(options.objective)
        if objective == "mmpo":
            run_stage(ablations(options), options)
        else:
            console.print(f"the ablations are MMPO's; nothing to do for {objective}, nothing was started")

    run_program(AblationOptions, program, "python sweeps/ablations.py", arguments)


if __name__ == "__main__":
    main()
