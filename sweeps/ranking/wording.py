"""A ranking in words and tables: sentences, the table on the terminal, the note and the table in MLflow."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from mmpo_train.metric_names import LOGRATIO_ACCURACY, POLICY_ACCURACY
from mmpo_train.tables import Table, as_markdown, shortened
from sweeps.ledger.records import TrialRecord
from sweeps.plan.labels import with_deviation, words
from sweeps.plan.stages import Stage
from sweeps.ranking.ranked import Ranked, Ranking
from sweeps.ranking.reasons import listed
from sweeps.ranking.significance import p_text

POLICY_LEVEL = {POLICY_ACCURACY: "policy", LOGRATIO_ACCURACY: "log-ratio"}
"""Metric -> its column: accuracy by plain log-probabilities, and by log-ratios to the reference. Both are comparable
between points and between objectives, unlike the objectives' own scores."""
_SAID = {"policy": "plain log-probabilities", "log-ratio": "log-ratios to the reference"}
_WIDE = 110
"""Columns of a terminal on which intervals, origins and words have room beside the numbers that can be compared."""
_OVERRULE = (
    "The run that was chosen has the tag `winner=auto`. To overrule it, open another run and set its tag `winner` to "
    "`person`, or move the alias `chosen` of the stage's registered model: the next stage takes that one."
)
COMPARABLE = "policy accuracy, log-ratio accuracy, win rates and the harness"
"""What compares points whose scores differ, in words."""


def sentences(stage: Stage, ranking: Ranking) -> list[str]:
    """The reasons for the winner: its lead and certainty, whether it is at the grid's edge, the policy-level
    accuracies, and the points without a result."""
    told = [ranking.reason, _edge(stage, ranking), *_policy_level(ranking)]
    for state, said in (("diverged", "diverged"), ("failed", "failed"), ("stopped", "stopped before the end")):
        labels = [row.candidate.label for row in ranking.rows if row.candidate.state == state]
        if labels and ranking.winner is not None:
            told.append(f"{listed(labels)} {said}.")
    return [sentence for sentence in told if sentence]


def _edge(stage: Stage, ranking: Ranking) -> str:
    numbers = sorted(value for value in stage.values if isinstance(value, int | float) and not isinstance(value, bool))
    value = ranking.winner.candidate.value if ranking.winner is not None else None
    if stage.by_epoch or len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
        return ""
    if ranking.scores_differ or ranking.is_one_model:
        return ""
    beside = numbers[1] if value == numbers[0] else numbers[-2]
    inner = [row for row in ranking.results if row.candidate.value == beside]
    assert ranking.winner is not None
    if any(row.near_winner or row.accuracy == ranking.winner.accuracy for row in inner):
        return ""  # the edge does no better than the point beside it
    return f"It is the {'largest' if value == max(numbers) else 'smallest'} of the grid: one beyond it might do better."


def _policy_level(ranking: Ranking) -> list[str]:
    if ranking.is_one_model:
        shares = {column: mean_of(ranking.results[0], metric) for metric, column in POLICY_LEVEL.items()}
        equal = [f"{_SAID[column]} {share:.3f}" for column, share in shares.items() if share is not None]
        return [f"What can be compared is equal for all: by {listed(equal)}."] if equal else []
    if ranking.winner is None and ranking.scores_differ:
        return [f"Compare {COMPARABLE}.", *_best_by_policy(ranking)]
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


def _best_by_policy(ranking: Ranking) -> list[str]:
    told = []
    for metric, column in POLICY_LEVEL.items():
        known = [(share, row.candidate.label) for row in ranking.results if (share := mean_of(row, metric)) is not None]
        if known:
            most = max(share for share, _ in known)
            told.append(f"{_SAID[column]} {listed([label for share, label in known if share == most])} ({most:.3f})")
    return [f"Most pairs are right by {listed(told)}."] if told else []


def mean_of(row: Ranked, metric: str) -> float | None:
    """Mean of a metric over the ranked checkpoints, one per seed; None if one of them lacks it."""
    values = [one.extra.get("metrics", {}).get(metric) for one in row.seeds]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def ranking_table(
    stage: Stage, ranking: Ranking, records: Mapping[str, TrialRecord], origins: Mapping[str, str], width: int
) -> Table:
    """The ranking as a table for a terminal of this width; a narrow one shows no intervals.

    `origins`: digest -> the stage from which a trial was taken.
    """
    wide = width >= _WIDE
    shown = _shown(ranking, wide)
    told = not ranking.scores_differ or (wide and ranking.winner is not None)
    told |= len(ranking.results) < len(ranking.rows)  # why there is no result
    headers = ["", words(stage.axis), *shown, *(["against the winner"] if told else [])]
    rows = []
    for number, row in enumerate(ranking.rows, 1):
        place = "" if row.accuracy is None or ranking.winner is None else str(number)
        rows.append([place, row.candidate.label, *_numbers(row, shown)])
        rows[-1] += [_against_winner(row, ranking, records)] if told else []
        rows[-1] += [_origin(row, origins, "taken from ")] if origins and wide else []
    of_words = (0, *range(len(shown) + 2, len(headers) + 1))
    headers += [""] if origins and wide else []
    title = f"ranking on {ranking.pairs} validation pairs" + (f", by {ranking.by}" if ranking.by else "")
    return shortened(Table(title, headers, rows, words=of_words, winner=None if ranking.winner is None else 0))


def _shown(ranking: Ranking, wide: bool) -> list[str]:
    """Headers of a ranking's numbers: the accuracy, with start and gain where scores differ, and the policy's own."""
    first = ranking.by or ("own reward accuracy" if ranking.scores_differ else "reward accuracy")
    gains = ["start", "gain"] if ranking.scores_differ else []
    return [first, *gains, *(["95% interval"] if wide else []), "epoch", *POLICY_LEVEL.values()]


def _numbers(row: Ranked, shown: Sequence[str]) -> list[str]:
    """A text under each header; its state where it has no result."""
    if row.accuracy is None:
        return [row.candidate.state, *("" for _ in shown[1:])]
    shares = {column: mean_of(row, metric) for metric, column in POLICY_LEVEL.items()}
    texts = {
        "start": "" if row.candidate.start is None else f"{row.candidate.start:.4f}",
        "gain": "" if row.gain is None else f"{row.gain:+.4f}",
        "95% interval": "" if row.interval is None else f"{row.interval[0]:.3f}–{row.interval[1]:.3f}",
        "epoch": str(row.candidate.epoch),
        **{column: "" if share is None else f"{share:.4f}" for column, share in shares.items()},
    }
    return [with_deviation(row.shares), *(texts[name] for name in shown[1:])]


def _against_winner(row: Ranked, ranking: Ranking, records: Mapping[str, TrialRecord]) -> str:
    winner = ranking.winner
    if row.accuracy is None:
        record = records.get(row.candidate.extra["digest"])
        return record.reason if record is not None and record.reason else "no result"
    if row is winner:
        return "chosen: same model" if ranking.is_one_model else "chosen" if ranking.scores_differ else "winner"
    if winner is not None and row.trainings and row.trainings == winner.trainings:
        return "same model"
    if ranking.scores_differ:
        return "another score"
    if winner is not None and row.accuracy == winner.accuracy:
        return "tie: later in the grid"
    if row.p_value is None:
        return "not tested"
    return ("tie, " if row.near_winner else "") + p_text(row.p_value)


def _origin(row: Ranked, origins: Mapping[str, str], before: str) -> str:
    digests = [one.extra["digest"] for one in row.seeds or (row.candidate,)]
    stages = sorted({origins[digest] for digest in digests if digest in origins})
    return f"{before}{listed(stages)}" if stages else ""


def note(
    stage: Stage, ranking: Ranking, origins: Mapping[str, str], choices: Sequence[str], extra: str, following: str
) -> str:
    """The description of the stage's run in MLflow, as Markdown: the ranking, earlier choices and the next command."""
    shown = _shown(ranking, wide=True)
    headers = [words(stage.axis), *shown, ""]
    rows = [[row.candidate.label, *_numbers(row, shown), _origin(row, origins, "taken from ")] for row in ranking.rows]
    table = shortened(Table("", headers, rows, winner=None if ranking.winner is None else 0))
    lines = [" ".join(sentences(stage, ranking)), "", *as_markdown(table, aligned=False).splitlines()]
    lines += ["", *extra.splitlines()] if extra else []
    # MLflow draws the columns of a table without a gap between them.
    lines = [line.replace(" | ", " | &emsp;") for line in lines]
    for choice in choices:
        lines += ["", choice]
    if ranking.winner is not None and stage.tunes:
        lines += ["", _OVERRULE]
    if ranking.winner is not None and following:
        lines += ["", "Next:", "", f"    {following}"]
    return "\n".join(lines)


def columns(
    stage: Stage, ranking: Ranking, records: Mapping[str, TrialRecord], origins: Mapping[str, str]
) -> dict[str, list[Any]]:
    """The ranking as columns of a table that MLflow can compare across runs."""
    table: dict[str, list[Any]] = {}
    for place, row in enumerate(ranking.rows, 1):
        low, high = row.interval or (None, None)
        digests = [one.extra["digest"] for one in row.seeds or (row.candidate,)]
        cells = {
            "place": place,
            stage.axis: row.candidate.value,
            (ranking.by or "reward_accuracy"): row.accuracy,
            "start": row.candidate.start,
            "gain": row.gain if not ranking.by else None,
            "deviation": row.deviation,
            "low_95": low,
            "high_95": high,
            "p_value": row.p_value,
            "tie": row.near_winner,
            "epoch": row.candidate.epoch,
            "policy_accuracy": mean_of(row, POLICY_ACCURACY),
            "logratio_accuracy": mean_of(row, LOGRATIO_ACCURACY),
            "state": row.candidate.state,
            "training": ", ".join(row.trainings),
            "taken_from": _origin(row, origins, ""),
            "checkpoint": row.candidate.extra.get("checkpoint", ""),
            "run_id": ", ".join(records[digest].run_id for digest in digests if digest in records),
        }
        for name, value in cells.items():
            table.setdefault(name, []).append(value)
    return table
