"""A study as a value, and its tables of means and standard deviations over seeds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from mmpo_train.metric_names import REWARD_MARGIN
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import as_csv, as_markdown
from sweeps import grids
from sweeps.ledger.records import TrialRecord
from sweeps.plan.trials import Planned
from sweeps.ranking.mc_po_numbers import OF_STUDY, PRINTED
from sweeps.ranking.study_sheets import LINES, METRICS, OF_JUDGE, Cell, StudyTable, as_lines, study_sheets


@dataclass(frozen=True, kw_only=True)
class Study:
    """The trials of each cell of a table."""

    name: str
    title: str
    cells: Mapping[tuple[str, str], Mapping[str, Any]]
    """(row, column), in the table's order -> fields of the cell's trials, the objective among them."""
    learning_rates: Callable[[str], tuple[float, ...]] = grids.usual_learning_rates
    """Learning rates for a model without --learning-rates."""
    settings: Mapping[str, Any]
    """Fields that all trials share unless the user sets them."""
    epochs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(row, column) -> the epoch whose checkpoint it shows; the last where it is not there."""
    from_starting_model: bool = False
    """Whether each row also shows the starting model's score by its objective."""

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.cells))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for _, column in self.cells))


@dataclass(frozen=True)
class Entry:
    """A trial and its place in the table."""

    planned: Planned
    row: str
    column: str
    learning_rate: float


def tabulate(study: Study, entries: Sequence[Entry], records: Mapping[str, TrialRecord]) -> list[StudyTable]:
    """A table for each metric that was measured: mean and sample standard deviation over seeds.

    A cell shows its final checkpoints (the paper's choice) at the learning rate with the best mean of the first metric
    measured. Cells without a result are missing.
    """
    tables = []
    chosen: dict[tuple[str, str], float] = {}
    for metric, name in (METRICS | OF_JUDGE).items():
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
    name = (METRICS | OF_JUDGE)[table.metric]
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


def write_tables(study: Study, tables: Sequence[StudyTable], folder: Path) -> tuple[Path, Path]:
    """The tables as Markdown, and every seed's number as a line of CSV; returns both paths."""
    lines = [f"# {study.title}", "", "mean (± sample standard deviation over seeds), final checkpoints", ""]
    if study.name in OF_STUDY:
        lines += [PRINTED, ""]
    for shown in study_sheets(study.name, study.title, study.rows, study.columns, tables):
        lines += [f"## {shown.title}", ""] if shown.title != study.title else []
        lines += [as_markdown(shown, aligned=False), ""]
    markdown, csv = folder / f"{study.name}.md", folder / f"{study.name}.csv"
    write_whole(markdown, "\n".join(lines))
    write_whole(csv, as_csv(LINES, as_lines(tables)))
    return markdown, csv
