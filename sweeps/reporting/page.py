"""A report as blocks, written as Markdown, as one HTML page that loads nothing, and its tables as CSV."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpo_train.storage.whole_file import write_whole

MISSING = "–"


@dataclass(frozen=True)
class Heading:
    """A section's title; level 1 is the page's."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `code` between backticks."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Sentences one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under headers; `name` is its CSV file's."""

    name: str
    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    """Columns of words, which stand left."""
    answers: bool = False
    """Whether all columns are long texts, whose line breaks matter."""

    def named(self, suffix: str) -> Table:
        """The same for one of several experiments: its CSV file's name ends so."""
        return dataclasses.replace(self, name=self.name + suffix)


@dataclass(frozen=True)
class Picture:
    """A figure that lies beside the page as PNG and SVG."""

    path: Path
    """Of the PNG; the SVG has the same name."""
    caption: str
    shows: str
    """What it shows, for who does not see it."""


Block = Heading | Text | Listing | Table | Picture


def write_page(folder: Path, stem: str, title: str, blocks: Sequence[Block], *, tables: bool = True) -> list[Path]:
    """Writes <stem>.md, <stem>.html and, below csv/, every table. Returns the paths."""
    files = {folder / f"{stem}.md": as_markdown(blocks), folder / f"{stem}.html": as_html(title, blocks)}
    for block in blocks if tables else ():
        if isinstance(block, Table):
            files[folder / "csv" / f"{block.name}.csv"] = as_csv(block.headers, block.rows)
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


def as_csv(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines that a spreadsheet reads."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([headers, *rows])
    return buffer.getvalue()


def as_markdown(blocks: Sequence[Block]) -> str:
    """The blocks; pictures are links to the files beside it."""
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
            marks = [
                "---" if column in block.words or block.answers else "---:" for column in range(len(block.headers))
            ]
            lines = [_cells(block.headers), f"|{'|'.join(marks)}|", *(_cells(row) for row in block.rows)]
            parts.append(f"{block.caption}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cells(row: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>") for cell in row)
    return f"| {' | '.join(escaped)} |"


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """One page with its style and pictures inside, by page.html. Whatever a block says is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"code": _code, "kind": lambda block: type(block).__name__, "base64": _base64}
    return pages.get_template("page.html").render(title=title, blocks=blocks)


def _code(text: str) -> list[str]:
    """Text and what stands between backticks in it, by turns."""
    return re.split(r"`([^`\n]+)`", text)


def _base64(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()
