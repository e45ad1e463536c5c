"""A study as a value, and its tables of means and standard deviations over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from mmpo_train.metric_names import ANSWERS_WIN_RATE, POLICY_ACCURACY, REWARD_ACCURACY, REWARD_MARGIN
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import Table, as_csv, as_markdown
from sweeps import grids
from sweeps.plan.labels import with_deviation
from sweeps.ranking.mc_po_numbers import PRINTED, Numbers

if TYPE_CHECKING:
    from sweeps.ledger.records import TrialRecord
    from sweeps.plan.trials import Planned

METRICS = {"win rate": ANSWERS_WIN_RATE, "reward accuracy": REWARD_ACCURACY, "policy accuracy": POLICY_ACCURACY}
"""Name in tables -> metric in the ledger. The first that was measured decides between learning rates. The win rate is
against the starting model."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The trials of each cell of a table."""

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Mapping[str, Any]]
    """(row, column) -> fields of the cell's trials, the objective among them. A cell may be absent."""
    learning_rates: Callable[[str], tuple[float, ...]] = grids.usual_learning_rates
    """Learning rates for a model without --learning-rates."""
    settings: Mapping[str, Any]
    """Fields that all trials share unless the user sets them."""
    epochs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(row, column) -> the epoch whose checkpoint it shows; the last where it is not there."""
    printed: Numbers = field(default_factory=dict)
    """What the paper prints in its place."""
    from_starting_model: bool = False
    """Whether each row also shows the starting model's score by its objective."""


@dataclass(frozen=True)
class Entry:
    """A trial and its place in the table."""

    planned: Planned
    row: str
    column: str
    learning_rate: float


@dataclass(frozen=True)
class StudyTable:
    """One metric of a study."""

    metric: str
    cells: Mapping[tuple[str, str], Cell]
    starting_model: Mapping[str, float] = field(default_factory=dict)
    """Row -> score of the starting model by the row's objective."""


@dataclass(frozen=True)
class Cell:
    """The numbers of a cell's seeds at its best learning rate."""

    values: tuple[float, ...]
    learning_rate: float
    missing: int
    """Number of seeds without a result."""
    rates_tried: int = 1

    def __str__(self) -> str:
        rate = f", lr {self.learning_rate:g}" if self.rates_tried > 1 else ""
        return f"{with_deviation(self.values)}{rate}" + (f" [{self.missing} missing]" if self.missing else "")


def tabulate(study: Study, entries: Sequence[Entry], records: Mapping[str, TrialRecord]) -> list[StudyTable]:
    """A table for each metric that was measured: mean and sample standard deviation over seeds.

    A cell shows its final checkpoints (the paper's choice) at the learning rate with the best mean of the first metric
    measured. Cells without a result are missing.
    """
    tables = []
    chosen: dict[tuple[str, str], float] = {}
    for metric, name in METRICS.items():
        cells: dict[tuple[str, str], Cell] = {}
        for row in study.rows:
            for column in study.columns:
                some = [entry for entry in entries if (entry.row, entry.column) == (row, column)]
                by_rate = _by_rate(some, records, name, study.epochs.get((row, column)))
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


def with_starting_model(table: StudyTable, rows: Mapping[str, Mapping[str, float]]) -> StudyTable:
    """The table with the starting model's scores, from its metrics for each row.

    Log-ratios of an untrained policy are all 0; every pair is then a tie and counts 0.5.
    """
    name = METRICS[table.metric]
    known = {row: scores for row, scores in rows.items() if name in scores}
    even = {row for row, scores in known.items() if scores[name] == 0 and scores[REWARD_MARGIN] == 0}
    return dataclasses.replace(
        table, starting_model={row: 0.5 if row in even else scores[name] for row, scores in known.items()}
    )


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


def shown_tables(study: Study, tables: Sequence[StudyTable]) -> list[Table]:
    """One for each metric, or a single one with a column for each metric where the study has one column. The paper's
    numbers stand beside ours: in the same table, or in one for each model and benchmark."""
    if len(study.columns) > 1:
        ours = [_shown(study, [table], table.metric) for table in tables]
        return ours + [_printed(study, name) for name in study.printed]
    one = _shown(study, tables, study.title)
    beside = [[_of_paper(study, name, row, study.columns[0]) for name in study.printed] for row in study.rows]
    rows = [(*row, *numbers) for row, numbers in zip(one.rows, beside, strict=True)]
    return [dataclasses.replace(one, headers=[*one.headers, *map(_headed, study.printed)], rows=rows)]


def _headed(name: str) -> str:
    return f"paper: {name}, %"


def _printed(study: Study, name: str) -> Table:
    rows = [(row, *(_of_paper(study, name, row, column) for column in study.columns)) for row in study.rows]
    return Table(_headed(name), ["", *study.columns], rows)


def _of_paper(study: Study, name: str, row: str, column: str) -> str:
    value, deviation = study.printed[name].get((row, column), (None, None))
    return "–" if value is None else f"{value:.2f}" + ("" if deviation is None else f" (±{deviation:.2f})")


def _shown(study: Study, tables: Sequence[StudyTable], title: str) -> Table:
    headers = [""]
    filled: list[list[str]] = []
    best: set[tuple[int, int]] = set()
    for table in tables:
        highest = max(mean(cell.values) for cell in table.cells.values())
        for column in study.columns:
            texts = []
            for number, row in enumerate(study.rows):
                cell, started = table.cells.get((row, column)), table.starting_model.get(row)
                best |= {(number, len(headers))} if cell is not None and mean(cell.values) == highest else set()
                texts.append(
                    ("" if started is None else f"{started:.4f} → ") + ("missing" if cell is None else str(cell))
                )
            headers.append(column if len(study.columns) > 1 else table.metric)
            filled.append(texts)
    return Table(title, headers, list(zip(study.rows, *filled, strict=True)), best=best)


def write_tables(study: Study, tables: Sequence[StudyTable], folder: Path) -> tuple[Path, Path]:
    """The tables as Markdown, and every seed's number as a line of CSV; returns both paths."""
    lines = [f"# {study.title}", "", "mean (± sample standard deviation over seeds), final checkpoints", ""]
    if study.printed:
        lines += [PRINTED, ""]
    for shown in shown_tables(study, tables):
        lines += [f"## {shown.title}", ""] if shown.title != study.title else []
        lines += [as_markdown(shown, aligned=False), ""]
    values = (
        (table.metric, row, column, cell.learning_rate, value)
        for table in tables
        for (row, column), cell in table.cells.items()
        for value in cell.values
    )
    markdown, csv = folder / f"{study.name}.md", folder / f"{study.name}.csv"
    write_whole(markdown, "\n".join(lines))
    write_whole(csv, as_csv(("metric", "row", "column", "learning_rate", "value"), values))
    return markdown, csv
