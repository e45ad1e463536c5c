"""Every objective on the same data, in one table: what each does to its own reward accuracy.

mmpo objectives
"""

from dataclasses import dataclass

from mmpo_train.config import OBJECTIVE_FIELDS
from mmpo_train.terminal import run_program
from sweeps.search.study import StudyOptions, run_study
from sweeps.search.study_tables import Study


@dataclass(frozen=True, kw_only=True)
class ObjectivesOptions(StudyOptions):
    """Compare all objectives from one starting model. Default data: tiny_ranked."""

    objectives: tuple[str, ...] = tuple(OBJECTIVE_FIELDS)
    """The objectives to compare."""
    seeds: int = 1
    """Train with each objective N times, with the seeds --seed, --seed+1, and so on."""


def study_of(objectives: tuple[str, ...]) -> Study:
    """What the starting model scores by each objective, and what the trained one does."""
    return Study(
        name="objectives",
        title="Every objective from the same starting model",
        cells={(name, "trained"): {"objective": name} for name in objectives},
        settings={"dataset": "tiny_ranked", "epochs": 1},
        from_starting_model=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Train and compare from the command line."""

    def program(options: ObjectivesOptions) -> None:
        run_study(study_of(options.objectives), options, "objectives")

    run_program(ObjectivesOptions, program, "mmpo objectives", arguments)


if __name__ == "__main__":
    main()
