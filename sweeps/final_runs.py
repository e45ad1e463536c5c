"""The final runs of Appendix B.1: five epochs for each of three betas, with the tuned learning rate and margin.

mmpo final --objective mmpo --model tiny --set evaluations=reward,harness,alpaca
"""

from dataclasses import dataclass
from typing import ClassVar

from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import FINAL_RUNS
from sweeps.plan.stages import Stage, stage_of
from sweeps.search.stage import run_script
from sweeps.trials.runner import Runner


@dataclass(frozen=True, kw_only=True)
class FinalOptions(SweepOptions):
    """Final runs: five epochs, judged by what --set evaluations=… names."""

    varied: ClassVar[tuple[str, ...]] = tuple(FINAL_RUNS.axes)

    betas: tuple[float, ...] = grids.FINAL_BETAS
    """The betas to train with."""
    learning_rate: float | None = None
    """Learning rate of all trials. Default: the one that stage 1 chose."""
    r_eps: float | None = None
    """MMPO's r_eps. Default: the one that stage 3 chose."""
    gamma_over_beta: float | None = None
    """SimPO's gamma/beta. Default: the one that stage 3 chose."""


def final_runs(options: FinalOptions) -> Stage:
    """Betas with the chosen learning rate and margin."""
    return stage_of(
        FINAL_RUNS,
        options.objective,
        values=options.betas,
        settings=grids.SEARCH_SETTINGS | {"epochs": grids.FINAL_EPOCHS},
        run_name="final b={}",
        log_axis=True,
    )


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> None:
    """Run them from the command line."""
    run_script(FINAL_RUNS, FinalOptions, final_runs, arguments, runner)


if __name__ == "__main__":
    main()
