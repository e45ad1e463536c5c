"""Files of preference rows -> rows that know their place.

The readers are our own so that a bad row can be named exactly and text stays as it is: pandas, and with it
`datasets`, reads the CSV cell `None` as no value.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmpo_train.data.rows import RowProblem
from mmpo_train.errors import InputError

_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")


class Row(NamedTuple):
    number: int
    place: str
    """How messages call it: `row 3`, `line 12`."""
    value: Any
    """What stands there, or the RowProblem that kept it from being read."""


@dataclass(frozen=True)
class Part:
    """One file, or one table, of a split."""

    label: str
    rows: Callable[[], Iterator[Row]]
    """Reads the rows; InputError if the file as a whole cannot be read."""


def file_part(path: str, label: str) -> Part:
    """The rows of one file, not yet read; InputError if its kind is unknown."""
    if not has_reader(path):
        raise InputError(
            f"{label}: cannot read files of this kind; expected one that ends in {', '.join(READERS)}, "
            "a folder or a hub id"
        )
    return Part(label, partial(READERS[_suffix(path)], path, label))


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def has_reader(path: str) -> bool:
    return _suffix(path) in READERS


def _read_json(path: str, label: str) -> Iterator[Row]:
    text = _text(path, label)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        by_line = error.msg == "Extra data" and text.lstrip().startswith("{")
        remedy = "it looks like one object a line: name it .jsonl" if by_line else "mend it there"
        raise InputError(
            f"{label} is broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; {remedy}"
        ) from None
    if not isinstance(rows, list):
        lists = [f"'{key}'" for key, value in rows.items() if isinstance(value, list)] if isinstance(rows, dict) else []
        remedy = f"; save the list under {' or '.join(lists)} by itself" if lists else ""
        found = "an object" if isinstance(rows, dict) else f"{json.dumps(rows)[:40]}"
        raise InputError(f"{label} should hold a list of objects, [{{...}}, {{...}}], but holds {found}{remedy}")
    for number, row in enumerate(rows, 1):
        yield Row(number, f"row {number}", row)


def _read_jsonl(path: str, label: str) -> Iterator[Row]:
    text = _text(path, label)
    if text.lstrip().startswith("["):
        raise InputError(f"{label} should hold one object a line, but begins with a list: name it .json")
    # Not splitlines: it also breaks at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                value = RowProblem("unreadable row", f"broken JSON at column {error.colno}: {error.msg}")
            yield Row(number, f"line {number}", value)


def _read_csv(path: str, label: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses completions over 128 KiB
    reader = csv.reader(io.StringIO(_text(path, label), newline=""), strict=True)
    number = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        twice = {name for name in header if header.count(name) > 1}
        if twice:
            raise InputError(f"{label} names the column {' and '.join(sorted(twice))} twice: rename or remove one")
        for cells in reader:
            if not cells:
                continue
            number += 1
            place = f"row {number} (ends at line {reader.line_num})"
            value: dict[str, str] | RowProblem = dict(zip(header, cells))
            if len(cells) != len(header):
                value = RowProblem(
                    "unreadable row",
                    f"{len(cells)} cells under {len(header)} columns: quote cells that hold commas",
                )
            elif any(map(_MESSAGES_AS_TEXT.match, cells)):
                value = RowProblem(
                    "wrong type",
                    "a CSV cell holds a list of messages as text: save messages as .jsonl or .parquet",
                )
            yield Row(number, place, value)
    except csv.Error as error:
        raise InputError(f"{label} is broken CSV near line {reader.line_num}: {error}; mend the quotes there") from None


def _read_parquet(path: str, label: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = _bytes(path, label)
    try:
        number = 0
        for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(batch_size=1000):
            for value in batch.to_pylist():
                number += 1
                yield Row(number, f"row {number}", value)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{label} is no readable parquet file ({in_brief(error)}): copy or write it again") from None


READERS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _bytes(path: str, label: str) -> bytes:
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as remote:
                data: bytes = remote.read()
        else:
            data = Path(path).read_bytes()
    except Exception as error:  # every kind of store raises its own
        raise InputError(f"{label} cannot be read ({in_brief(error)}); copy it here and give its path") from error
    if not data or data.isspace():
        raise InputError(f"{label} is empty: expected rows with a prompt, a chosen and a rejected completion")
    return data


def _text(path: str, label: str) -> str:
    data = _bytes(path, label)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        raise InputError(
            f"{label} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}); "
            f"if it is {encoding}, `iconv -f {encoding} -t UTF-8 FILE > NEW_FILE` converts it"
        ) from None


def in_brief(error: Exception) -> str:
    """Kind and first line of an error, for a message of our own."""
    text = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
