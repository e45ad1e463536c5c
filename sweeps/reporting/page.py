"""A report as blocks, written as Markdown, as one self-contained HTML page, and its tables as CSV."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpo_train import tables
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import Table

MISSING = "–"


@dataclass(frozen=True)
class Heading:
    """The title of a section; level 1 is the page's title."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `code` between backticks."""

    text: str


@dataclass(frozen=True)
class Listing:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table under its title as a caption, and in a CSV file of this name."""

    name: str
    table: Table
    answers: bool = False
    """Whether its texts are what models answered, whose line breaks and backticks are kept."""

    def named(self, suffix: str) -> Sheet:
        """The same table with a suffix to its CSV file's name, for one of several experiments."""
        return dataclasses.replace(self, name=self.name + suffix)


@dataclass(frozen=True)
class Picture:
    """A figure, stored beside the page as PNG and SVG."""

    path: Path
    """Path of the PNG; the SVG has the same name."""
    caption: str
    shows: str
    """Alternative text."""


Block = Heading | Text | Listing | Sheet | Picture


ROWS = 100
"""Rows of a table on a page; its CSV has all."""


def write_page(folder: Path, stem: str, title: str, blocks: Sequence[Block]) -> list[Path]:
    """Write <stem>.md, <stem>.html and, in csv/, every table whole. Returns the paths."""
    files = {folder / f"{stem}.md": as_markdown(blocks), folder / f"{stem}.html": as_html(title, blocks)}
    for block in blocks:
        if isinstance(block, Sheet):
            files[folder / "csv" / f"{block.name}.csv"] = tables.as_csv(block.table.headers, block.table.rows)
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


def as_markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown; figures are links to files."""
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Listing):
            parts.append("\n".join(f"- {item}" for item in block.items))
        elif isinstance(block, Picture):
            parts.append(f"![{block.shows}](figures/{block.path.name})\n\n{block.caption}")
        else:
            parts.append(f"{block.table.title}\n\n{tables.as_markdown(tables.shortened(block.table, ROWS))}")
    return "\n\n".join(parts) + "\n"


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """The blocks as one HTML page with style and figures inside, by page.html. All text of blocks is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "rows": lambda table: tables.shortened(table, ROWS).rows,
        "code": _code,
        "kind": lambda block: type(block).__name__,
        "base64": _base64,
    }
    return pages.get_template("page.html").render(title=title, blocks=blocks)


def _code(text: str) -> list[str]:
    """The text and the code between backticks, in turn."""
    return re.split(r"`([^`\n]+)`", text)


def _base64(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()
