"""A study's numbers as tables: means over seeds, and beside them what the paper prints."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

from mmpo_train.metric_names import ANSWERS_WIN_RATE, POLICY_ACCURACY, REWARD_ACCURACY, judge_checks_of
from mmpo_train.tables import Table
from sweeps.plan.labels import with_deviation
from sweeps.ranking.mc_po_numbers import OF_STUDY, Numbers

METRICS = {"win rate": ANSWERS_WIN_RATE, "reward accuracy": REWARD_ACCURACY, "policy accuracy": POLICY_ACCURACY}
"""Name in tables -> metric in the ledger. The first that was measured decides between learning rates. The win rate is
against the starting model."""
OF_JUDGE = dict(zip(("null answer", "order flips"), judge_checks_of(ANSWERS_WIN_RATE), strict=True))
"""The same of what says how far the judge can be trusted."""


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


@dataclass(frozen=True)
class StudyTable:
    """One metric of a study."""

    metric: str
    cells: Mapping[tuple[str, str], Cell]
    """(row, column) -> numbers."""
    starting_model: Mapping[str, float] = field(default_factory=dict)
    """Row -> score of the starting model by the row's objective."""


LINES = ("metric", "row", "column", "learning_rate", "value")
"""Headers of a study's numbers as they are kept, a line for each seed."""


def as_lines(tables: Sequence[StudyTable]) -> Iterator[tuple[object, ...]]:
    """The numbers of every seed, under LINES."""
    for table in tables:
        for (row, column), cell in table.cells.items():
            yield from ((table.metric, row, column, cell.learning_rate, value) for value in cell.values)


def from_lines(lines: Sequence[Mapping[str, str]], seeds: int) -> list[StudyTable]:
    """The tables of these lines, without the starting model; `seeds` is the number that each cell was planned with."""
    rates = len({line["learning_rate"] for line in lines})
    found: dict[str, dict[tuple[str, str], Cell]] = {}
    for line in lines:
        cells, place = found.setdefault(line["metric"], {}), (line["row"], line["column"])
        values = (*(cells[place].values if place in cells else ()), float(line["value"]))
        cells[place] = Cell(values, float(line["learning_rate"]), seeds - len(values), rates)
    return [StudyTable(metric, cells) for metric, cells in found.items()]


def study_sheets(
    name: str, title: str, rows: Sequence[str], columns: Sequence[str], tables: Sequence[StudyTable]
) -> list[Table]:
    """One for each metric, or a single one with a column for each metric where the study has one column. The paper's
    numbers stand beside ours: in the same table, or in one for each model and benchmark."""
    printed = OF_STUDY.get(name, {})
    if len(columns) > 1:
        ours = [_ours(rows, columns, [table], table.metric) for table in tables]
        return ours + [_printed(rows, columns, printed, benchmark) for benchmark in printed]
    one = _ours(rows, columns, tables, title)
    beside = [[_of_paper(printed, benchmark, row, columns[0]) for benchmark in printed] for row in rows]
    lines = [(*row, *numbers) for row, numbers in zip(one.rows, beside, strict=True)]
    return [dataclasses.replace(one, headers=[*one.headers, *map(_headed, printed)], rows=lines)]


def _headed(benchmark: str) -> str:
    return f"paper: {benchmark}, %"


def _printed(rows: Sequence[str], columns: Sequence[str], printed: Numbers, benchmark: str) -> Table:
    lines = [(row, *(_of_paper(printed, benchmark, row, column) for column in columns)) for row in rows]
    return Table(_headed(benchmark), ["", *columns], lines)


def _of_paper(printed: Numbers, benchmark: str, row: str, column: str) -> str:
    value, deviation = printed[benchmark].get((row, column), (None, None))
    return "–" if value is None else f"{value:.2f}" + ("" if deviation is None else f" (±{deviation:.2f})")


def _ours(rows: Sequence[str], columns: Sequence[str], tables: Sequence[StudyTable], title: str) -> Table:
    headers = [""]
    filled: list[list[str]] = []
    best: set[tuple[int, int]] = set()
    for table in tables:
        highest = max(mean(cell.values) for cell in table.cells.values())
        for column in columns:
            texts = []
            for number, row in enumerate(rows):
                cell, started = table.cells.get((row, column)), table.starting_model.get(row)
                is_best = table.metric not in OF_JUDGE and cell is not None and mean(cell.values) == highest
                best |= {(number, len(headers))} if is_best else set()
                texts.append(
                    ("" if started is None else f"{started:.4f} → ") + ("missing" if cell is None else str(cell))
                )
            headers.append(column if len(columns) > 1 else table.metric)
            filled.append(texts)
    return Table(title, headers, list(zip(rows, *filled, strict=True)), best=best)
