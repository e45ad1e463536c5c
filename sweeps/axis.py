"""A grid over one hyper-parameter of an objective, the others fixed.

mmpo axis --objective cpo --axis gamma --values 0 1 10
"""

from dataclasses import dataclass

from mmpo_train.config import OBJECTIVE_FIELDS, TrialConfig, nearest, replace
from mmpo_train.errors import InputError
from mmpo_train.terminal import run_program
from sweeps import grids
from sweeps.plan.options import SweepOptions
from sweeps.plan.stages import Stage, known_objective
from sweeps.search.stage import run_stage


@dataclass(frozen=True, kw_only=True)
class AxisOptions(SweepOptions):
    """Tune one hyper-parameter of an objective; fix the others with --set."""

    axis: str = "beta"
    """The hyper-parameter to tune: a field of the objective, or learning_rate."""
    values: tuple[str, ...] = ()
    """The values to try. Default: the usual grid of that hyper-parameter, from sweeps/grids.py."""


def axis_stage(options: AxisOptions) -> Stage:
    """The stage that the options describe. Raises InputError for an axis that the objective does not have."""
    # An unknown objective is named before its axes are looked up.
    objective = known_objective(options.objective)
    axes = [name for name in ("learning_rate", *OBJECTIVE_FIELDS[objective]) if name in grids.AXES]
    if options.axis not in axes:
        raise InputError(f"{objective} has no axis {options.axis!r}{nearest(options.axis, axes)}")
    values = options.values or grids.AXES[options.axis]
    return Stage(
        name=f"axis_{options.axis}",
        title=f"{objective} over {options.axis}",
        axis=options.axis,
        run_name=options.axis[:6] + "={}",
        values=tuple(getattr(replace(TrialConfig(), {options.axis: value}), options.axis) for value in values),
        settings={"epochs": 2},
        option="--values",
        log_axis=options.axis == "learning_rate",
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the grid from the command line."""

    def program(options: AxisOptions) -> None:
        run_stage(axis_stage(options), options)

    run_program(AxisOptions, program, "mmpo axis", arguments)


if __name__ == "__main__":
    main()
