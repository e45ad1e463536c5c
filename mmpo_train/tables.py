"""A table of texts, and how it is written: in a terminal, as Markdown, as CSV. Every table that is shown is one."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from rich import table as rich
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """Rows of text under headers."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[int] = (0,)
    """Columns of words, which stand left; the others are numbers and stand right."""
    best: Collection[tuple[int, int]] = ()
    """(row, column) of what is set in bold."""
    winner: int | None = None
    """The row that is set in bold as a whole; a terminal has it green too."""


def shortened(table: Table, most: int = 40) -> Table:
    """Its first rows, and one that counts the others, for people to read."""
    others = len(table.rows) - most
    if others < 2:
        return table
    last = ("…", f"{others:,} others", *("" for _ in table.headers[2:]))
    return replace(table, rows=[*table.rows[:most], last[: len(table.headers)]])


def for_terminal(table: Table) -> rich.Table:
    """The table under its title, for a console to print."""
    drawn = rich.Table(title=Text(table.title, style="bold"), title_justify="left")
    for column, header in enumerate(table.headers):
        drawn.add_column(header, justify="left" if column in table.words else "right", no_wrap=column == 0)
    for number, row in enumerate(table.rows):
        cells = [Text(text, "bold" if (number, at) in table.best else "") for at, text in enumerate(row)]
        drawn.add_row(*cells, style="bold green" if number == table.winner else "")
    return drawn


def as_markdown(table: Table, *, aligned: bool = True) -> str:
    """The table without its title; not `aligned`, numbers stand left too."""
    marks = ["---:" if aligned and column not in table.words else "---" for column in range(len(table.headers))]
    lines = [_line(table.headers), f"|{'|'.join(marks)}|"]
    for number, row in enumerate(table.rows):
        bold = [number == table.winner or (number, at) in table.best for at in range(len(row))]
        lines.append(_line(row, bold))
    return "\n".join(lines)


def as_csv(headers: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Lines that a spreadsheet reads. A text that it would take for a formula has an apostrophe in front."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([map(_no_formula, row) for row in (headers, *rows)])
    return buffer.getvalue()


def _no_formula(cell: object) -> object:
    number = r"[+-]?[\d.]+(e[+-]?\d+)?%?( ± [\d.]+)?"
    formula = isinstance(cell, str) and cell.lstrip()[:1] in ("=", "+", "-", "@") and not re.fullmatch(number, cell)
    return f"'{cell}" if formula else cell


def _line(texts: Sequence[str], bold: Sequence[bool] = ()) -> str:
    # No link and no picture: a page of answers is to load nothing.
    escaped = str.maketrans({"|": "\\|", "<": "&lt;", "\n": "<br>", "\r": " "})
    cells = [text.replace("](", "]\\(").translate(escaped) for text in texts]
    marked = [f"**{cell}**" if is_bold and cell else cell for cell, is_bold in zip(cells, bold or [False] * len(cells))]
    return f"| {' | '.join(marked)} |"
