"""Numbers of the report with their noise. Standard library only."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from statistics import mean, stdev

from eval_workers.tracking.store import param_number
from mmpo_train import metric_names as keys
from sweeps.ranking.noise import Measured
from sweeps.ranking.win_rates import length_controlled as kind_of_rate
from sweeps.ranking.win_rates import shown_rate
from sweeps.reporting.read import Experiment, Point, StageRun, Trial

POINT_HEADERS = (
    "experiment", "stage", "objective", "run", "axis", "point", "epoch", "metric",
    "value", "noise", "noise_is", "seeds", "seeds_missing", "mark",
)  # fmt: skip


def measure(point: Point, metric: str, epoch: int) -> Measured | None:
    """The point's number at an epoch, over finished trials; None if no seed has it.

    The noise of several seeds is their sample standard deviation, that of one seed the metric's own error.
    """
    known = [trial for trial in point.trials if trial.record.status == "finished"]
    seeds = [one for one in (of_trial(trial, metric, epoch) for trial in known) if one is not None]
    if not seeds:
        return None
    missing, mark = point.expected - len(seeds), max(one.mark for one in seeds)
    if len(seeds) == 1:
        return replace(seeds[0], missing=missing)
    values, of = [one.value for one in seeds], f"standard deviation over {len(seeds)} seeds"
    return Measured(mean(values), stdev(values), of, len(seeds), missing, mark)


def of_trial(trial: Trial, metric: str, epoch: int) -> Measured | None:
    """A checkpoint's number with its own error; a length-controlled rate that found nothing is the raw one, marked."""
    if epoch not in trial.scores.get(metric, {}):
        return None
    if metric in keys.LENGTH_CONTROLLED:
        return shown_rate(
            {name: by_epoch[epoch] for name, by_epoch in trial.scores.items() if epoch in by_epoch}, metric
        )
    return Measured(trial.scores[metric][epoch], *own_error(trial, metric, epoch))


def own_error(trial: Trial, metric: str, epoch: int) -> tuple[float | None, str]:
    """A metric's standard error within one run, and its name."""
    if metric in (keys.REWARD_ACCURACY, keys.POLICY_ACCURACY) and trial.pairs:
        share = trial.scores[metric][epoch]
        return math.sqrt(share * (1 - share) / trial.pairs), f"binomial standard error, {trial.pairs} pairs"
    names = keys.errors_of(metric, [name for name, by_epoch in trial.scores.items() if epoch in by_epoch])
    if not names:
        return None, "unknown"
    if names == [keys.error_of(metric)]:
        is_arena = metric == keys.ARENA_WIN_RATE
        of = "bootstrap's standard error" if is_arena else "standard error over the tasks' documents"
    else:
        of = "the judge's standard error" if len(names) == 1 else f"mean of {len(names)} judges' standard errors"
    # All judges read the same answers, so their errors may be fully correlated: their mean is an upper bound.
    return mean(trial.scores[name][epoch] for name in names), of


def length_controlled(stages: Sequence[StageRun]) -> str:
    """The kind of length-controlled win rate that was measured; the published one if none was."""
    return kind_of_rate(_measured(stages)) or keys.LC_WIN_RATE


def _measured(stages: Sequence[StageRun]) -> set[str]:
    return {name for stage in stages for trial in stage.trials for name in trial.scores}


def epochs_of(stage: StageRun) -> range:
    """The epochs for which the stage's trials were planned."""
    asked = [int(param_number(trial.record.params, "epochs", 1)) for trial in stage.trials]
    return range(1, max(asked, default=0) + 1)


def peak(stage: StageRun, metric: str, points: Iterable[Point] | None = None) -> tuple[Point, int, Measured] | None:
    """Point, epoch and number of the highest over all points, or these, and epochs; None where nothing was measured.

    A tie goes to the earlier point, then to the earlier epoch.
    """
    places = product(stage.points if points is None else points, epochs_of(stage))
    every = ((point, epoch, measure(point, metric, epoch)) for point, epoch in places)
    known = [(point, epoch, one) for point, epoch, one in every if one is not None]
    return max(known, key=lambda one: one[2].value, default=None)


def metrics_of(stages: Sequence[StageRun]) -> dict[str, str]:
    """Metric -> name of the metrics that these stages measured."""
    rates = length_controlled(stages)
    named = {
        keys.REWARD_ACCURACY: "reward accuracy",
        keys.HARNESS_MEAN: "LM Harness",
        rates: keys.LENGTH_CONTROLLED[rates],
        keys.WIN_RATE: "raw win rate",
        keys.ARENA_WIN_RATE: "Arena-Hard",
    }
    return {metric: name for metric, name in named.items() if metric in _measured(stages)}


def every_point(experiment: Experiment) -> Iterator[tuple[object, ...]]:
    """Rows under POINT_HEADERS for all runs of all stages; a missing number has empty cells."""
    for stage in experiment.stages:
        of_run = experiment.name, stage.name, stage.objective, stage.run_id, stage.params.get("axis", "")
        for point, epoch, metric in product(stage.points, epochs_of(stage), metrics_of([stage])):
            where, one = (*of_run, point.label, epoch, metric), measure(point, metric, epoch)
            if one is None:
                yield (*where, "", "", "", 0, point.expected, "")
            else:
                noise = "" if one.noise is None else one.noise
                yield (*where, one.value, noise, one.noise_is, one.seeds, one.missing, one.mark)
