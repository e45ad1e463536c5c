"""A report as blocks, written as Markdown, as one HTML page that loads nothing, and its tables as CSV."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpo_train.storage.whole_file import write_whole

MISSING = "–"

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #57606a; --rule: #d0d7de; --stripe: #f6f8fa; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9da7b3; --rule: #3d444d; --stripe: #1c2128; --page: #15191f; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 72rem;
  margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.6rem;
  border-bottom: 1px solid var(--rule); padding-bottom: .3rem; } h3 { font-size: 1.05rem; margin-top: 1.8rem; }
p, li { max-width: 58rem; } code { font: .88em ui-monospace, monospace; background: var(--stripe); padding: 0 .25em;
  border-radius: 3px; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; overflow-x: auto; } figcaption { color: var(--soft); font-size: .9rem;
  padding: .3rem 0; max-width: 58rem; }
img { box-sizing: border-box; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; text-align: right; }
th { font-weight: 600; vertical-align: bottom; } .text { text-align: left; }
td.answer { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 16rem; max-width: 30rem; }
@media print {
  :root { --ink: #000; --soft: #444; --rule: #bbb; --stripe: #f4f4f4; --page: #fff; }
  body { margin: 0; max-width: none; font-size: 10pt; } img, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; } table { font-size: 8pt; } figure { overflow: visible; }
}
"""


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
    """One page with its style and pictures inside."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Listing):
        return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in block.items) + "\n</ul>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.path.read_bytes()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(block.shows)}">'
        return f"<figure>{image}<figcaption>{_inline(block.caption)}</figcaption></figure>"
    left = set(range(len(block.headers))) if block.answers else set(block.words)

    def row(cells: Sequence[str], kind: str, looks: str) -> str:
        # What a model answered is shown as it is, backticks and all.
        texts = [html.escape(cell) if block.answers else _inline(cell) for cell in cells]
        looked = [f' class="{looks}"' if column in left else "" for column in range(len(cells))]
        return f"<tr>{''.join(f'<{kind}{look}>{text}</{kind}>' for look, text in zip(looked, texts))}</tr>"

    head = f"<thead>{row(block.headers, 'th', 'text')}</thead>"
    rows = "\n".join(row(cells, "td", "answer text" if block.answers else "text") for cells in block.rows)
    caption = f"<figcaption>{_inline(block.caption)}</figcaption>"
    return f"<figure>{caption}<table>\n{head}\n<tbody>\n{rows}\n</tbody></table></figure>"


def _inline(text: str) -> str:
    """Escaped, `code` marked."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", html.escape(text))
