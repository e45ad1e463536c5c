"""Rows of data files, with their places.

The readers are our own, so that messages can name a bad row exactly and text stays unchanged: pandas, and therefore
`datasets`, reads the CSV cell `None` as a missing value.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

from mmpo_train.chat.habits import LOOKED_AT, PAIR, Habits, habits_of
from mmpo_train.chat.problems import RowProblem
from mmpo_train.chat.texts import DECODER, json_problem, parse_json
from mmpo_train.data.packed import (
    MOST_TIMES,
    PACKINGS,
    check_density,
    check_growth,
    empty,
    lines,
    memory_left,
    suffixes,
    whole,
)
from mmpo_train.errors import InputError, in_brief

_SPACE = re.compile(r"[ \t\n\r]*")
_ROWS_AT_ONCE = 64
_MAGICS = {b"\x1f\x8b": ".gz", b"(\xb5/\xfd": ".zst", b"BZh": ".bz2", b"\xfd7zXZ": ".xz"}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class Row(NamedTuple):
    number: int
    place: str
    """Its name in messages, such as `row 3` or `line 12`."""
    value: Any
    """Its content, or the RowProblem because of which it could not be read."""


def numbered(values: Iterable[Any]) -> Iterator[Row]:
    """The rows with these contents."""
    for number, value in enumerate(values, 1):
        yield Row(number, f"row {number}", value)


@dataclass(frozen=True)
class Part:
    """One file, or one table, of a split."""

    label: str
    rows: Callable[[], Iterator[Row]]
    """Reads the rows. Raises InputError if the file as a whole cannot be read."""


def file_part(path: str, label: str) -> Part:
    """The rows of one file, not yet read. Raises InputError for an unknown kind of file."""
    if not has_reader(path):
        raise InputError(
            f"{label}: cannot read files of this kind; expected one that ends in {', '.join(READERS)} "
            f"(then perhaps {', '.join(PACKINGS)}), a folder or a hub id"
        )
    return Part(label, partial(READERS[suffixes(path)[0]], path, label))


def with_habits(rows: Iterator[Row], completions: Sequence[str] = PAIR) -> tuple[Iterator[Row], Habits]:
    """The same rows, and the file's conventions as its first rows show them."""
    first = list(islice(rows, LOOKED_AT))
    return chain(first, rows), habits_of([row.value for row in first], completions)


def has_reader(path: str) -> bool:
    """Whether a file of this name can be read."""
    return suffixes(path)[0] in READERS


def _read_json(path: str, label: str) -> Iterator[Row]:
    data = whole(path, label)
    check_density(data, label)
    text = _decoded(data, label)
    position = _skip(text, 0)
    if text[position] != "[":
        raise _no_list(text, label)
    number, position = 0, _skip(text, position + 1)
    try:
        while number or text[position : position + 1] != "]":
            number += 1
            # One row after the other: all together they would take several times the file's memory.
            value, position = DECODER.raw_decode(text, position)
            yield Row(number, f"row {number}", value)
            position = _skip(text, position)
            if text[position : position + 1] == "]":
                break
            if text[position : position + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = _skip(text, position + 1)
        if _skip(text, position + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, position + 1)
    except json.JSONDecodeError as error:
        raise _broken(error, label, "correct it") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{label}, row {number}: {json_problem(error)}; correct it") from None


def _no_list(text: str, label: str) -> InputError:
    """The error for a JSON file that does not begin with a list."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        by_line = error.msg == "Extra data" and text.lstrip().startswith("{")
        return _broken(error, label, "it looks like one object per line: name it .jsonl" if by_line else "correct it")
    except (ValueError, RecursionError) as error:
        return InputError(f"{label}: {json_problem(error)}; correct it")
    lists = [f"'{key}'" for key, held in value.items() if isinstance(held, list)] if isinstance(value, dict) else []
    remedy = f"; save the list under {' or '.join(lists)} by itself" if lists else ""
    found = "an object" if isinstance(value, dict) else f"{json.dumps(value)[:40]}"
    return InputError(f"{label} should be a list of objects, [{{...}}, {{...}}], but is {found}{remedy}")


def _broken(error: json.JSONDecodeError, label: str, remedy: str) -> InputError:
    return InputError(f"{label} is broken JSON at line {error.lineno}, column {error.colno}: {error.msg}; {remedy}")


def _skip(text: str, position: int) -> int:
    """The position after white space."""
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()


def _read_jsonl(path: str, label: str) -> Iterator[Row]:
    offset, filled = 0, False
    for number, line in enumerate(lines(path, label), 1):
        if line and not line.isspace():
            text = _decoded(line, label, offset, number)
            if not filled and text.lstrip().startswith("["):
                raise InputError(f"{label} should have one object per line, but begins with a list: name it .json")
            filled = True
            check_density(line, label)
            try:
                value = parse_json(text)
            except RowProblem as problem:
                value = problem
            yield Row(number, f"line {number}", value)
        offset += len(line) + 1
    if not filled:
        raise empty(label)


def _read_csv(path: str, label: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses completions over 128 KiB
    text = _decoded(whole(path, label), label)
    first = text.partition("\n")[0].rstrip()
    if other := next((mark for mark in _SEPARATORS if first.count(mark) > first.count(",")), ""):
        names = first.replace('"', "").replace(other, ", ")
        raise InputError(f"{label} has {_SEPARATORS[other]} between its columns ({names}): write it with commas")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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
                    "unreadable row", f"{len(cells)} cells under {len(header)} columns: quote cells that contain commas"
                )
            yield Row(number, place, value)
    except csv.Error as error:
        raise InputError(f"{label} is broken CSV near line {reader.line_num}: {error}; correct the quotes") from None


def _read_parquet(path: str, label: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    here = "://" not in path and not suffixes(path)[1]
    source: Any = path if here else pa.BufferReader(whole(path, label))
    try:
        with pq.ParquetFile(source, memory_map=here) as file:
            names = file.schema_arrow.names
            if twice := {name for name in names if names.count(name) > 1}:
                raise InputError(f"{label} has the column {' and '.join(sorted(twice))} twice: rename or remove one")
            number, unpacked = 0, 0
            packed = os.path.getsize(path) if here else source.size
            for group in range(file.num_row_groups):
                at_once = _rows_at_once(file.metadata.row_group(group), label)
                for batch in file.iter_batches(batch_size=at_once, row_groups=[group]):
                    unpacked += batch.nbytes
                    check_growth(label, packed, unpacked)
                    for value in table_rows(batch.to_pylist(), batch.schema):
                        number += 1
                        yield Row(number, f"row {number}", value)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{label} is not a readable Parquet file ({in_brief(error)}): write it again") from None


def _rows_at_once(group: Any, label: str) -> int:
    """Number of a row group's rows that fit into half of the memory in any case. Raises InputError for a bomb. A column
    chunk stores its values, or their numbers in a dictionary of which only the size in the file is known: any row may
    have all of it."""
    left, most = memory_left() // 2, _ROWS_AT_ONCE
    for column in map(group.column, range(group.num_columns)):
        held = max(column.total_uncompressed_size, 8 * (column.num_values - group.num_rows))
        check_growth(label, column.total_compressed_size, held)
        if column.has_dictionary_page:
            dictionary = min(held, MOST_TIMES * max(1, column.data_page_offset - column.dictionary_page_offset))
            most = min(most, left // max(1, dictionary))
    return max(1, most)


def table_rows(rows: list[dict[str, Any]], schema: object) -> list[dict[str, Any]]:
    """The rows without the nulls that a table adds to objects; only rows with tools are changed."""
    return list(map(_without_nulls, rows)) if re.search("tool|function", str(schema)) else rows


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(held) for key, held in value.items() if held is not None}
    return list(map(_without_nulls, value)) if isinstance(value, list) else value


def _decoded(data: bytes, label: str, offset: int = 0, line: int = 0) -> str:
    """The text of bytes at an offset of the file, in a line (0 if they are the whole file)."""
    try:
        text = data.decode("utf-8")
        return text if offset else text.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if packing := next(
            (packing for magic, packing in _MAGICS.items() if not offset and data.startswith(magic)), ""
        ):
            raise InputError(f"{label} is not text but compressed: give its name the ending {packing}") from None
        line = line or data.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if not offset and data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        raise InputError(
            f"{label} is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start} (line {line}); "
            f"if it is {encoding}, `iconv -f {encoding} -t UTF-8 FILE > NEW_FILE` converts it"
        ) from None


READERS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
