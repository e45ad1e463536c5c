"""The ablations of Section 5: MMPO at beta = 0.05, each time with one part taken out or added, for five epochs.

python sweeps/ablations.py --model tiny
"""

from __future__ import annotations

from dataclasses import dataclass

from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import ABLATIONS
from sweeps.plan.stages import Stage, stage_of
from sweeps.search.stage import run_script


@dataclass(frozen=True, kw_only=True)
class AblationOptions(SweepOptions):
    """MMPO's ablations, with the tuned learning rate and r_eps. The full one is the final run with beta = 0.05."""

    learning_rate: float | None = None
    """Instead of stage 1's choice."""
    r_eps: float | None = None
    """Instead of stage 3's choice."""


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


def main(arguments: list[str] | None = None) -> None:
    """Run them from the command line."""
    run_script(ABLATIONS, AblationOptions, ablations, arguments)


if __name__ == "__main__":
    main()
