"""Every epoch of every point: the tables of the final runs, points down and epochs across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from mmpo_train import tables
from mmpo_train.metric_names import ARENA_WIN_RATE, HARNESS_MEAN, LC_WIN_RATE, REWARD_ACCURACY, judge_checks_of
from mmpo_train.tables import Table
from sweeps.plan.labels import with_deviation

if TYPE_CHECKING:
    from sweeps.ledger.records import TrialRecord
    from sweeps.plan.stages import GridPoint

METRICS = {
    "reward accuracy": REWARD_ACCURACY,
    "LM Harness, mean accuracy": HARNESS_MEAN,
    "AlpacaEval, length-controlled win rate": LC_WIN_RATE,
    "Arena-Hard, win rate": ARENA_WIN_RATE,
}
"""As tables name them -> as the ledger does."""


def epoch_tables(points: Sequence[GridPoint], records: Mapping[str, TrialRecord], axis_name: str) -> list[Table]:
    """A table for each metric that was measured, over all seeds; the peak epoch of each point is marked."""
    found = []
    epochs = range(1, max(point.trials[0].config.epochs for point in points) + 1)
    for title, metric in METRICS.items():
        measured = {point.label: _by_epoch(point, records, metric) for point in points}
        if not any(measured.values()):
            continue
        rows, best = [], set()
        for number, (label, values) in enumerate(measured.items()):
            rows.append((label, *(with_deviation(values[epoch]) if epoch in values else "missing" for epoch in epochs)))
            if values:
                peak = max(values, key=lambda epoch: (mean(values[epoch]), -epoch))
                best.add((number, peak))
        headers = ("", *(f"epoch {epoch}" for epoch in epochs))
        about = _judge_checks(points, records, metric)
        found.append(Table(f"{title}, {axis_name} by epoch (peak bold){about}", headers, rows, best=best))
    return found


def _judge_checks(points: Sequence[GridPoint], records: Mapping[str, TrialRecord], win_rate: str) -> str:
    """What stands beside a judged win rate, in words, as the mean over all checkpoints; empty for other metrics."""
    said = []
    for name, metric in zip(("null answer", "order flips"), judge_checks_of(win_rate)):
        values = [value for point in points for some in _by_epoch(point, records, metric).values() for value in some]
        said += [f"{name} {mean(values):.3f}"] if values else []
    return f"; {', '.join(said)}" if said else ""


def as_markdown(found: Sequence[Table]) -> str:
    """The tables for a note."""
    return "".join(f"**{one.title}**\n\n{tables.as_markdown(one, aligned=False)}\n\n" for one in found).rstrip("\n")


def _by_epoch(point: GridPoint, records: Mapping[str, TrialRecord], metric: str) -> dict[int, list[float]]:
    """Epoch -> the seeds' values."""
    values: dict[int, list[float]] = {}
    for trial in point.trials:
        if trial.digest in records:
            for epoch, value in records[trial.digest].curve(metric):
                values.setdefault(epoch, []).append(value)
    return values
