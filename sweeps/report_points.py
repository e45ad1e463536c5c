"""Every number behind the report as rows of a table: each point, epoch and metric, in full precision."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.report_ledger import Experiment
from sweeps.report_numbers import epochs_of, measure
from sweeps.report_tables import metrics_of

POINT_HEADERS = (
    "experiment", "stage", "objective", "run", "axis", "point", "epoch", "metric",
    "value", "noise", "noise_is", "seeds", "seeds_missing",
)  # fmt: skip


def every_point(experiment: Experiment) -> Iterator[tuple[object, ...]]:
    """Rows under POINT_HEADERS of all runs of all stages; one that is missing has empty cells."""
    for stage in experiment.stages:
        for point in stage.points:
            for epoch in epochs_of(stage):
                for metric in metrics_of([stage]):
                    axis = stage.params.get("axis", "")
                    where = (
                        experiment.name,
                        stage.name,
                        stage.objective,
                        stage.run_id,
                        axis,
                        point.label,
                        epoch,
                        metric,
                    )
                    one = measure(point, metric, epoch)
                    if one is None:
                        yield (*where, "", "", "", 0, point.expected)
                    else:
                        noise = "" if one.noise is None else one.noise
                        yield (*where, one.value, noise, one.noise_is, one.seeds, one.missing)
