"""A table as it is shown: in a terminal, in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Sheet:
    """A table as it is shown."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The row's name, then a text under each header."""
    best: frozenset[tuple[int, int]]
    """(row, header) of the best means."""


def as_lines(sheet: Sheet) -> list[str]:
    """The sheet as a table in Markdown."""
    lines = [f"| | {' | '.join(sheet.headers)} |", "|---" * (len(sheet.headers) + 1) + "|"]
    for number, (name, *texts) in enumerate(sheet.rows):
        marked = [f"**{text}**" if (number, place) in sheet.best else text for place, text in enumerate(texts)]
        lines.append(f"| {name} | {' | '.join(marked)} |")
    return lines


def printed(sheet: Sheet) -> Table:
    """The sheet for a terminal."""
    shown = Table(title=sheet.title, title_justify="left", title_style="bold")
    shown.add_column("", no_wrap=True)
    for header in sheet.headers:
        shown.add_column(header, justify="right")
    for number, (name, *texts) in enumerate(sheet.rows):
        marked = [f"[bold]{text}[/]" if (number, place) in sheet.best else text for place, text in enumerate(texts)]
        shown.add_row(name, *marked)
    return shown
