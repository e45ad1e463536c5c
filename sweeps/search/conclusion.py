"""The end of a stage: ranking, winner, figure and next command."""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import mean
from typing import Any

from rich.markup import escape

from mmpo_train.acting_fields import score_of
from mmpo_train.config import digest_of
from mmpo_train.metric_names import ACCURACY_CURVE, LOSS, REWARD_ACCURACY, errors_of
from mmpo_train.tables import for_terminal
from mmpo_train.terminal import console, print_text
from sweeps.figures.stage import plot_stage
from sweeps.ledger.chosen import Contender
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.stage_log import StageLog
from sweeps.ledger.tags import Baseline, baseline_of, winner_tags
from sweeps.plan.labels import words
from sweeps.plan.options import SweepOptions
from sweeps.plan.stages import GridPoint, Stage
from sweeps.ranking.curve_signs import signs
from sweeps.ranking.epoch_tables import as_markdown, epoch_tables
from sweeps.ranking.measures import measure_of
from sweeps.ranking.noise import over_seeds
from sweeps.ranking.ranked import SHARES_OF_PAIRS, Candidate, Ranked, Ranking
from sweeps.ranking.winners import rank
from sweeps.ranking.wording import columns, note, ranking_table, sentences
from sweeps.search.choices import Choice


def conclude(
    stage: Stage,
    experiment: str,
    points: Sequence[GridPoint],
    records: Mapping[str, TrialRecord],
    log: StageLog,
    options: SweepOptions,
    choices: Sequence[Choice],
    following: str,
    starts: Mapping[str, Mapping[str, float]],
) -> Ranking:
    """Rank the points, draw them, record the winner, print it all. Returns the ranking.

    Trials that another stage trained get stand-ins below this one. `following` is the next command, for the note;
    `starts`: digest -> what the starting model scores.
    """
    every = [trial for point in points for trial in point.trials]
    by, objective = measure_of(options.choose_by, every[0].config.evaluations), every[0].config.objective
    held = {trial.training for trial in every if trial.digest in records and records[trial.digest].held}
    candidates = [one for point in points for one in _candidates(point, records, by, starts, held)]
    ranking = rank(candidates, by=by, must_choose=stage.tunes)
    origins = _take(points, records, log)
    baseline = baseline_of(log.tags)
    picture = plot_stage(
        options.folder / "plots" / f"{stage.name}-{objective}-{log.run_id[:8]}.png",
        title=f"{stage.title}: {objective}, {experiment}",
        axis_name=words(stage.axis),
        ranking=ranking,
        log_axis=stage.log_axis,
        baseline=(baseline and baseline.line) or None,  # 0 is no score: all are equal before training
        curves=_curves(points, records),
    )
    console.print(for_terminal(ranking_table(stage, ranking, records, origins, console.width)))
    if baseline is not None:
        print_text(_starting_model(baseline))
    console.print(f"\n[bold]{escape(' '.join(sentences(stage, ranking)))}[/]", highlight=False)
    for sign in signs(candidates, ranking.winner):
        print_text(sign)
    by_epoch = epoch_tables(points, records, words(stage.axis)) if stage.by_epoch else []
    for table in by_epoch:
        console.print(for_terminal(table))
    log.log_file(picture, "figures")
    log.log_table("ranking", columns(stage, ranking, records, origins))
    log.describe(note(stage, ranking, origins, [one.said for one in choices], as_markdown(by_epoch), following))
    _record_winner(stage, ranking, records, log)
    if failed := sum(record.status == "failed" for record in records.values()):
        print_text(f"{failed} failed: the same command tries them again")
    print_text(f"picture: {picture}")
    return ranking


def _starting_model(baseline: Baseline) -> str:
    by_policy = f"accuracy by plain log-probabilities {baseline.policy_accuracy:.4f}"
    if not baseline.reward_accuracy:
        return f"starting model: {by_policy}"
    own = " to ".join(map(str, baseline.reward_accuracy)) if baseline.line is None else f"{baseline.line:.4f}"
    ties = " (all scores are equal before training)" if baseline.line == 0 else ""
    return f"starting model: reward accuracy {own}{ties}, {by_policy}"


def _candidates(
    point: GridPoint,
    records: Mapping[str, TrialRecord],
    by: str,
    starts: Mapping[str, Mapping[str, float]],
    held: Collection[str],
) -> list[Candidate]:
    """`held` names the trainings that a person has stopped."""
    found = []
    for trial in point.trials:
        record = records.get(trial.digest)
        own: dict[str, Any] = {"label": point.label, "value": point.value, "seed": trial.config.seed}
        if record is None or record.status != "finished" or not record.evaluations:
            known = record.status if record is not None else "stopped" if trial.training in held else "failed"
            state = known if known in ("diverged", "failed", "stopped") else "failed"
            found.append(Candidate(**own, state=state, extra={"digest": trial.digest}))
            continue
        measured = dict(record.curve(by)) if by else {}
        errors = _errors(record, by) if measured else {}
        score, start = digest_of(score_of(trial.config)), starts.get(trial.digest, {}).get("reward_accuracy")
        of_epochs = [
            Candidate(
                **own,
                training=trial.training,
                score=score,
                start=start,
                epoch=scored.epoch,
                correct=scored.correct,
                measure=measured.get(scored.epoch),
                error=errors.get(scored.epoch),
                extra={"digest": trial.digest, "checkpoint": scored.checkpoint, "metrics": scored.metrics},
            )
            for scored in record.evaluations
            if not by or scored.epoch in measured
        ]
        found += of_epochs or [Candidate(**own, state=f"no {by}", extra={"digest": trial.digest})]
    return found


def _errors(record: TrialRecord, metric: str) -> dict[int, float]:
    """Epoch -> standard error of what points are chosen by; several judges' errors may be correlated: their mean."""
    if metric in SHARES_OF_PAIRS:
        shares = dict(record.curve(metric))
        pairs = {scored.epoch: len(scored.correct) for scored in record.evaluations}
        return {
            epoch: math.sqrt(share * (1 - share) / pairs[epoch]) for epoch, share in shares.items() if epoch in pairs
        }
    curves = [dict(record.curve(name)) for name in errors_of(metric, record.logged)]
    return {epoch: mean(curve[epoch] for curve in curves) for epoch in set.intersection(*map(set, curves or [{}]))}


def _take(points: Sequence[GridPoint], records: Mapping[str, TrialRecord], log: StageLog) -> dict[str, str]:
    """Digest -> stage of the trials that another stage started; each gets a stand-in."""
    origins = {}
    for trial in (trial for point in points for trial in point.trials):
        record = records.get(trial.digest)
        if record is not None and record.parent != log.run_id:
            origins[trial.digest] = record.stage
            log.take(record, trial.run_name)
    return origins


def _record_winner(stage: Stage, ranking: Ranking, records: Mapping[str, TrialRecord], log: StageLog) -> None:
    winner = ranking.winner
    if winner is None:
        log.mark_winner(())
        log.finish(None, {"winner.reason": ranking.reason})
        return
    log.mark_winner([one.extra["digest"] for one in winner.seeds])
    one = winner.candidate
    accuracy = mean(mean(seed.correct) for seed in winner.seeds)
    log.score(one.epoch, one.extra["metrics"] | {REWARD_ACCURACY: accuracy})
    log.register([_contender(stage, row, records, ranking.by) for row in ranking.results])
    tags = winner_tags(stage.axis, one.value, one.epoch, accuracy, ranking.reason, ranking.by)
    log.finish(records[one.extra["digest"]], tags)


def _contender(stage: Stage, row: Ranked, records: Mapping[str, TrialRecord], by: str) -> Contender:
    one = row.candidate
    said = f"{words(stage.axis)} {one.label}, epoch {one.epoch}: {by or 'reward accuracy'} {row.accuracy:.4f}"
    digests = [seed.extra["digest"] for seed in row.seeds]
    return Contender(records[one.extra["digest"]], one.epoch, digests, said)


def _curves(
    points: Sequence[GridPoint], records: Mapping[str, TrialRecord]
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Point -> metric -> (step, mean over the seeds that have the step)."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for point in points:
        known = [records[trial.digest] for trial in point.trials if trial.digest in records]
        for metric in (ACCURACY_CURVE, LOSS):
            by_step = over_seeds(record.curve(metric) for record in known)
            curves.setdefault(point.label, {})[metric] = [(step, mean(some)) for step, some in by_step.items()]
    return curves
