"""What a study is, and its tables: mean and standard deviation over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sweeps import grids

if TYPE_CHECKING:
    from sweeps.planned import Planned
    from sweeps.tracking import TrialRecord

METRICS = {
    "win rate against the starting model": "answers/win_rate",
    "reward accuracy": "validation/reward_accuracy",
    "policy accuracy": "validation/policy_accuracy",
}
"""As tables name them -> as the ledger does. The first that was measured decides between learning rates."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which trials stand in which cell."""

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Mapping[str, Any]]
    """(row, column) -> fields of the cell's trials, the objective among them. A cell may be absent."""
    learning_rates: Callable[[str], tuple[float, ...]] = grids.usual_learning_rates
    """Of a model, where --learning-rates gives none."""
    settings: Mapping[str, Any]
    """Fields that all trials share unless the user sets them."""
    columns_are_epochs: bool = False
    """One trial fills a row: its epoch n the n-th column."""
    starting_column: str = ""
    """A first column, of this name, with what the starting model scores by each row's objective."""

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """All columns of the printed tables."""
        return (self.starting_column, *self.columns) if self.starting_column else self.columns


@dataclass(frozen=True)
class Entry:
    """A trial and where its numbers go."""

    planned: Planned
    row: str
    column: str
    learning_rate: float


@dataclass(frozen=True)
class StudyTable:
    """One metric of a study."""

    metric: str
    cells: Mapping[tuple[str, str], Cell]


@dataclass(frozen=True)
class Cell:
    """What the seeds of a cell gave at its best learning rate."""

    values: tuple[float, ...]
    learning_rate: float
    missing: int
    """Seeds without a result."""
    rates_tried: int = 1

    def __str__(self) -> str:
        spread = f" (±{stdev(self.values):.4f})" if len(self.values) > 1 else ""
        rate = f", lr {self.learning_rate:g}" if self.rates_tried > 1 else ""
        return f"{mean(self.values):.4f}{spread}{rate}" + (f" [{self.missing} missing]" if self.missing else "")


def tabulate(study: Study, entries: Sequence[Entry], records: Mapping[str, TrialRecord]) -> list[StudyTable]:
    """A table for each metric that was measured: mean and sample standard deviation over seeds.

    A cell shows its final checkpoints (the paper's choice) at the learning rate that is best on average by the first
    metric measured; what has no result is missing.
    """
    tables = []
    chosen: dict[tuple[str, str], float] = {}
    for metric, name in METRICS.items():
        cells: dict[tuple[str, str], Cell] = {}
        for row in study.rows:
            for number, column in enumerate(study.columns):
                place = (row, study.columns[0] if study.columns_are_epochs else column)
                some = [entry for entry in entries if (entry.row, entry.column) == place]
                epoch = number + 1 if study.columns_are_epochs else None
                by_rate = _by_rate(some, records, name, epoch)
                measured = {rate: values for rate, values in by_rate.items() if values}
                if measured:
                    best = chosen.setdefault((row, column), max(measured, key=lambda rate: mean(measured[rate])))
                    if best in measured:
                        seeds = sum(entry.learning_rate == best for entry in some)
                        missing = seeds - len(measured[best])
                        cells[row, column] = Cell(tuple(measured[best]), best, missing, len(by_rate))
        if cells:
            tables.append(StudyTable(metric, cells))
    return tables


def with_starting_model(study: Study, table: StudyTable, rows: dict[str, dict[str, float]]) -> StudyTable:
    """The table with its first column. Log-ratios of an untrained policy are all 0: every pair a tie, which is 0.5."""
    name = METRICS[table.metric]
    cells = dict(table.cells)
    for row, scores in rows.items():
        if name in scores:
            value = 0.5 if scores[name] == 0 and scores["validation/reward_margin"] == 0 else scores[name]
            cells[row, study.starting_column] = Cell((value,), 0.0, 0)
    return StudyTable(table.metric, cells)


def _by_rate(
    entries: Sequence[Entry], records: Mapping[str, TrialRecord], metric: str, epoch: int | None
) -> dict[float, list[float]]:
    values: dict[float, list[float]] = {}
    for entry in entries:
        record = records.get(entry.planned.digest)
        found = values.setdefault(entry.learning_rate, [])
        if record is None or record.status != "finished":
            continue
        wanted = epoch or entry.planned.config.epochs
        scores = [evaluation.metrics.get(metric) for evaluation in record.evaluations if evaluation.epoch == wanted]
        found += [score for score in scores if score is not None]
    return values


def write_tables(study: Study, tables: Sequence[StudyTable], folder: Path) -> tuple[Path, Path]:
    """The tables as Markdown and as CSV (one line a seed's number); returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {study.title}", "", "mean (± sample standard deviation over seeds), final checkpoints", ""]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("metric", "row", "column", "learning_rate", "value"))
    for table in tables:
        lines += [f"## {table.metric}", "", "| | " + " | ".join(study.shown_columns) + " |"]
        lines.append("|---" * (len(study.shown_columns) + 1) + "|")
        for row in study.rows:
            lines.append(
                f"| {row} | " + " | ".join(_text(study, table, row, column) for column in study.shown_columns) + " |"
            )
        lines.append("")
        for (row, column), cell in table.cells.items():
            writer.writerows((table.metric, row, column, cell.learning_rate, value) for value in cell.values)
    paths = folder / f"{study.name}.md", folder / f"{study.name}.csv"
    for path, content in zip(paths, ("\n".join(lines), buffer.getvalue()), strict=True):
        staging = path.with_name(f".{path.name}")
        staging.write_text(content)
        staging.replace(path)
    return paths


def printed(study: Study, table: StudyTable) -> Table:
    """The table for a terminal, the best mean in bold."""
    shown = Table(title=table.metric, title_justify="left", title_style="bold")
    shown.add_column("")
    for column in study.shown_columns:
        shown.add_column(column, justify="right")
    best = max(mean(cell.values) for (_, column), cell in table.cells.items() if column in study.columns)
    for row in study.rows:
        cells = []
        for column in study.shown_columns:
            cell = table.cells.get((row, column))
            is_best = cell is not None and column in study.columns and mean(cell.values) == best
            cells.append(
                f"[bold]{_text(study, table, row, column)}[/]" if is_best else _text(study, table, row, column)
            )
        shown.add_row(row, *cells)
    return shown


def _text(study: Study, table: StudyTable, row: str, column: str) -> str:
    cell = table.cells.get((row, column))
    if cell is None:
        return "" if column not in study.columns else "missing"
    return str(cell)
