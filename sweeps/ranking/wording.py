"""A ranking as a person reads it: sentences, the terminal's table, the note and the table in MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from mmpo_train.metric_names import LOGRATIO_ACCURACY, POLICY_ACCURACY
from mmpo_train.tables import Table, as_markdown
from sweeps.plan.labels import with_deviation, words
from sweeps.ranking.significance import p_text
from sweeps.ranking.winners import Ranked, Ranking, listed

if TYPE_CHECKING:
    from sweeps.ledger.records import TrialRecord
    from sweeps.plan.stages import Stage

POLICY_LEVEL = {POLICY_ACCURACY: "policy", LOGRATIO_ACCURACY: "log-ratio"}
"""Metric -> its column. By plain log-probabilities, and by log-ratios to the reference: these compare points, and
objectives, whose own scores differ."""
_SAID = {"policy": "plain log-probabilities", "log-ratio": "log-ratios to the reference"}
_WIDE = 110
"""Columns of a terminal on which the policy-level accuracies have room."""


def sentences(stage: Stage, ranking: Ranking) -> list[str]:
    """Why this winner: the lead and its certainty, the grid's edge, what the policy by itself says, who is missing."""
    told = [ranking.reason, _edge(stage, ranking), *_policy_level(ranking)]
    for state in ("diverged", "failed"):
        labels = [row.candidate.label for row in ranking.rows if row.candidate.state == state]
        if labels and ranking.winner is not None:
            told.append(f"{listed(labels)} {state}.")
    return [sentence for sentence in told if sentence]


def _edge(stage: Stage, ranking: Ranking) -> str:
    numbers = [value for value in stage.values if isinstance(value, int | float) and not isinstance(value, bool)]
    value = ranking.winner.candidate.value if ranking.winner is not None else None
    if stage.by_epoch or len(numbers) < 2 or value not in (min(numbers), max(numbers)):
        return ""
    return f"It is the {'largest' if value == max(numbers) else 'smallest'} of the grid: one beyond it might do better."


def _policy_level(ranking: Ranking) -> list[str]:
    agreeing: list[str] = []
    told: list[str] = []
    for metric, column in POLICY_LEVEL.items():
        whose = _SAID[column]
        known = [(share, row) for row in ranking.rows if (share := mean_of(row, metric)) is not None]
        ours = mean_of(ranking.winner, metric) if ranking.winner is not None else None
        if ours is None or len(known) < 2:
            continue
        share, best = max(known, key=lambda one: one[0])
        if share == ours:
            agreeing.append(f"{'by' if agreeing else 'By'} {whose} ({ours:.3f})")
        else:
            told.append(f"By {whose} {best.candidate.label} has more pairs right ({share:.3f} against {ours:.3f}).")
    return ([f"{listed(agreeing)} no point is better."] if agreeing else []) + told


def mean_of(row: Ranked, metric: str) -> float | None:
    """Of the ranked checkpoints, one for each seed; None where any of them lacks it."""
    values = [one.extra.get("metrics", {}).get(metric) for one in row.seeds]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def ranking_table(
    stage: Stage, ranking: Ranking, records: Mapping[str, TrialRecord], origins: Mapping[str, str], width: int
) -> Table:
    """For a terminal of so many columns. `origins`: digest -> the stage from which a trial was taken."""
    policy = POLICY_LEVEL if width >= _WIDE else {}
    headers = ["", *_headers(stage, policy.values()), "against the winner"]
    rows = []
    for number, row in enumerate(ranking.rows, 1):
        place = "" if row.accuracy is None else str(number)
        rows.append([place, *_numbers(row, policy), _against_winner(row, ranking, records)])
        rows[-1] += [_origin(row, origins, "taken from ")] if origins else []
    headers += [""] if origins else []
    title = f"ranking on {ranking.pairs} validation pairs"
    of_words = (0, *range(len(policy) + 5, len(headers)))
    return Table(title, headers, rows, words=of_words, winner=None if ranking.winner is None else 0)


def _headers(stage: Stage, policy: Iterable[str]) -> list[str]:
    return [words(stage.axis), "reward accuracy", "95% interval", "epoch", *policy]


def _numbers(row: Ranked, policy: Iterable[str]) -> list[str]:
    """Label, accuracy, interval, epoch and the policy-level accuracies; its state where it has no result."""
    if row.accuracy is None or row.interval is None:
        return [row.candidate.label, row.candidate.state, "", "", *("" for _ in policy)]
    shares = [mean_of(row, metric) for metric in policy]
    return [
        row.candidate.label,
        with_deviation(row.shares),
        f"{row.interval[0]:.3f}–{row.interval[1]:.3f}",
        str(row.candidate.epoch),
        *("" if share is None else f"{share:.4f}" for share in shares),
    ]


def _against_winner(row: Ranked, ranking: Ranking, records: Mapping[str, TrialRecord]) -> str:
    if row.accuracy is None:
        record = records.get(row.candidate.extra["digest"])
        return record.reason if record is not None and record.reason else "no result"
    if row.p_value is None:
        return "winner"
    if ranking.winner is not None and row.accuracy == ranking.winner.accuracy:
        return "tie: later in the grid"
    return ("tie, " if row.near_winner else "") + p_text(row.p_value)


def _origin(row: Ranked, origins: Mapping[str, str], before: str) -> str:
    digests = [one.extra["digest"] for one in row.seeds or (row.candidate,)]
    stages = sorted({origins[digest] for digest in digests if digest in origins})
    return f"{before}{listed(stages)}" if stages else ""


def note(
    stage: Stage, ranking: Ranking, origins: Mapping[str, str], choices: Sequence[str], extra: str, following: str
) -> str:
    """The stage's run described for MLflow, as Markdown: the ranking, what led here and what comes next."""
    headers = [*_headers(stage, POLICY_LEVEL.values()), ""]
    rows = [[*_numbers(row, POLICY_LEVEL), _origin(row, origins, "taken from ")] for row in ranking.rows]
    table = Table("", headers, rows, winner=None if ranking.winner is None else 0)
    lines = [" ".join(sentences(stage, ranking)), "", *as_markdown(table, aligned=False).splitlines()]
    lines += ["", *extra.splitlines()] if extra else []
    # MLflow draws the columns of a table without a gap between them.
    lines = [line.replace(" | ", " | &emsp;") for line in lines]
    for choice in choices:
        lines += ["", choice]
    if ranking.winner is not None and stage.tunes:
        lines += [
            "",
            "The winner's run below has the tag `winner=auto`. To overrule it, open another run and set its tag "
            "`winner` to `person`: the next stage takes that one.",
        ]
    if ranking.winner is not None and following:
        lines += ["", "Next:", "", f"    {following}"]
    return "\n".join(lines)


def columns(
    stage: Stage, ranking: Ranking, records: Mapping[str, TrialRecord], origins: Mapping[str, str]
) -> dict[str, list[Any]]:
    """The ranking as the columns of a table that MLflow compares across runs."""
    table: dict[str, list[Any]] = {}
    for place, row in enumerate(ranking.rows, 1):
        low, high = row.interval or (None, None)
        digests = [one.extra["digest"] for one in row.seeds or (row.candidate,)]
        cells = {
            "place": place,
            stage.axis: row.candidate.value,
            "reward_accuracy": row.accuracy,
            "deviation": row.deviation,
            "low_95": low,
            "high_95": high,
            "p_value": row.p_value,
            "tie": row.near_winner,
            "epoch": row.candidate.epoch,
            "policy_accuracy": mean_of(row, POLICY_ACCURACY),
            "logratio_accuracy": mean_of(row, LOGRATIO_ACCURACY),
            "state": row.candidate.state,
            "taken_from": _origin(row, origins, ""),
            "checkpoint": row.candidate.extra.get("checkpoint", ""),
            "run_id": ", ".join(records[digest].run_id for digest in digests if digest in records),
        }
        for name, value in cells.items():
            table.setdefault(name, []).append(value)
    return table
