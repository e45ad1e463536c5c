"""The gaps of a report, as sentences. Missing numbers are never filled in; they are named here."""

from collections.abc import Iterable, Iterator

from eval_workers.tracking.store import param_number
from mmpo_train.metric_names import HARNESS_MEAN, LC_WIN_RATE, OF_SUITE, UNJUDGED_SHARES
from mmpo_train.typed.programs import program_of
from sweeps.plan.labels import shown, words
from sweeps.plan.order import search_of
from sweeps.ranking.reasons import listed
from sweeps.reporting.numbers import epochs_of, length_controlled, metrics_of
from sweeps.reporting.read import Experiment, Point, StageRun, Trial
from sweeps.reporting.tables import stage_title


def missing_sentences(experiment: Experiment) -> list[str]:
    """Stages that were not run, points without a result, and missing evaluations of epochs and of the starting
    model."""
    told = [f"Not in this report: search {other}; `--search` chooses it." for other in experiment.other_searches]
    finals = []
    for objective in experiment.objectives:
        for expected in search_of(objective):
            name, stage = expected.name, experiment.stage(expected.name, objective)
            if stage is None:
                told.append(f"{objective}: {stage_title(name)}: not run (`{program_of(name)}`).")
                continue
            gaps = [*_not_ended(stage), *_points_missing(stage)]
            decided = {field: experiment.chosen(field, objective) for field in expected.chosen(objective)}
            for field in stage.disagreeing(decided):
                was, now = (shown(field, value) for value in (param_number(stage.params, field), decided[field]))
                gaps.append(f"it was run with {words(field)} {was}; {now} is chosen now.")
            if others := len(experiment.runs_of(name, objective)) - 1:
                runs = f"{others} other run{'s' if others > 1 else ''}"
                gaps.append(f"{runs} of it not shown; this is run {stage.run_id}.")
            if expected.is_last:
                finals.append(stage)
                gaps += evaluations_missing(stage)
            told += _told(stage, gaps)
    if finals and HARNESS_MEAN not in experiment.starting_model:
        told.append(
            f"The starting model's LM Harness accuracy is not in the ledger, so its line is not drawn: "
            f"`mmpo judge {experiment.model} --suite harness --mlflow-uri ADDRESS` records it."
        )
    kinds = length_controlled(finals)
    if finals and kinds != LC_WIN_RATE:
        told.append(
            f"The win rates are `{kinds}`, not AlpacaEval's own length control; none is compared with the paper's."
        )
    return told


def stage_missing(stage: StageRun) -> list[str]:
    """The gaps of a figure of the stage: points without a result, and epochs without an evaluation."""
    return _told(stage, [*_points_missing(stage), *evaluations_missing(stage)])


def _told(stage: StageRun, gaps: Iterable[str]) -> list[str]:
    return [f"{stage.objective}: {stage_title(stage.name)}: {one}" for one in gaps]


def _not_ended(stage: StageRun) -> Iterator[str]:
    if not stage.finished:
        yield f"it has not ended ({stage.tags.get('stage.reason') or stage.tags.get('stage.state', 'running')})."


def _points_missing(stage: StageRun) -> Iterator[str]:
    axis = words(stage.axis)
    for point in stage.points:
        if absent := point.expected - len(point.trials):
            seeds = f"{absent} of {point.expected} seeds were" if point.expected > 1 else "it was"
            yield f"{axis} {point.label} has no result: {seeds} not trained."
        for trial in point.trials:
            record = trial.record
            if record.status != "finished":
                why = f": {record.reason}" if record.reason else ""
                yield f"{axis} {point.label}{_seed(point, trial)} has no result, it {_state(record.status)}{why}."


def _seed(point: Point, trial: Trial) -> str:
    return f", seed {trial.record.params.get('seed', '?')}" if point.expected > 1 else ""


def _state(status: str) -> str:
    return {"running": "is still running or was interrupted", "stopped": "was stopped early"}.get(status, status)


def evaluations_missing(stage: StageRun) -> Iterator[str]:
    """Missing evaluations of finished trials."""
    rates = length_controlled([stage])
    for metric, name in ((HARNESS_MEAN, "LM Harness"), (rates, "length-controlled win rate")):
        if metric not in metrics_of([stage]):
            yield f"no {name} at all: run the command again with `--set evaluations=reward,harness,alpaca`."
            continue
        for point in stage.points:
            yield from _epochs_without(stage, point, metric, name)
    yield from _unjudged(stage)


def _unjudged(stage: StageRun) -> list[str]:
    """The largest share of answers, for each judge, on which it gave no verdict."""
    most: dict[str, float] = {}
    for trial in stage.trials:
        for name, by_epoch in trial.scores.items():
            if name.startswith(tuple(UNJUDGED_SHARES.values())):
                most[name] = max([most.get(name, 0.0), *by_epoch.values()])
    return [
        f"`{name}` is up to {share:.1%}: this share of the answers has no verdict and counts for neither side."
        for name, share in sorted(most.items())
        if share
    ]


def _epochs_without(stage: StageRun, point: Point, metric: str, name: str) -> Iterator[str]:
    suite = next(suite for suite, group in OF_SUITE.items() if metric.startswith(group))
    for trial in point.trials:
        there = trial.scores.get(metric, {})
        epochs = [epoch for epoch in epochs_of(stage) if epoch not in there]
        if trial.record.status != "finished" or not epochs:
            continue
        reasons = {
            trial.tags[tag]
            for epoch in epochs
            for tag in sorted(trial.tags)
            if tag.startswith(f"evaluation.{suite}") and tag.endswith(f".epoch-{epoch:04d}")
        }
        why = f" ({'; '.join(sorted(reasons))})" if reasons else ""
        at = f"epoch{'s' if len(epochs) > 1 else ''} {listed([str(epoch) for epoch in epochs])}"
        yield f"{words(stage.axis)} {point.label}{_seed(point, trial)} has no {name} at {at}{why}."
