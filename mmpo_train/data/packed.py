"""The bytes of a data file, decompressed while they are read, and refused before they fill the memory."""

import bz2
import gzip
import lzma
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mmpo_train.errors import InputError, in_brief

CHUNK_BYTES = 1 << 20
_FREE_BYTES = 1 << 28
"""Decompressed bytes that are allowed for a file of any size."""
MOST_TIMES = 250
"""Highest compression ratio of a larger file: prose reaches 3, the most repetitive tables 100."""
_OBJECT_BYTES, _VALUE_BYTES = 240, 64
"""Bytes of memory of a JSON object with one key, and of any other value."""
_DENSE = 8
"""Bytes of memory per byte of JSON; conversations need fewer."""
_RESERVE_BYTES = 1 << 28
"""Memory that is left for everything else."""
_UNKNOWN_BYTES = 1 << 33
"""Free memory that is assumed if the system does not report it."""


def _zstandard(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


PACKINGS: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".zst": _zstandard, ".bz2": bz2.open, ".xz": lzma.open}


def suffixes(path: str) -> tuple[str, str]:
    """Suffixes of the format and of the compression, such as `.jsonl` and `.gz`; the second may be empty."""
    stem, last = os.path.splitext(path.lower())
    return (os.path.splitext(stem)[1], last) if last in PACKINGS else (last, "")


def chunks(path: str, label: str) -> Iterator[bytes]:
    """Yields the decompressed file in pieces. Raises InputError for an unreadable file and for a bomb."""
    unpacked = 0
    try:
        with _opened(path) as file:
            packing = suffixes(path)[1]
            source = PACKINGS[packing](file) if packing else file
            while chunk := source.read(CHUNK_BYTES):
                unpacked += len(chunk)
                if packing:
                    check_growth(label, file.tell(), unpacked)
                yield chunk
    except InputError:
        raise
    except Exception as error:  # every kind of store and of packing raises its own
        raise InputError(f"{label} cannot be read ({in_brief(error)}); copy it here again and give its path") from error


def whole(path: str, label: str) -> bytes:
    """The whole file. Raises InputError if it is larger than a quarter of the free memory."""
    parts: list[bytes] = []
    size, most = 0, memory_left() // 4
    for chunk in chunks(path, label):
        parts.append(chunk)
        size += len(chunk)
        if size > most:
            raise _too_big(label, f"it is longer than {_shown(most)}, a quarter of the memory that is left")
    data = b"".join(parts)
    if not data or data.isspace():
        raise empty(label)
    return data


def lines(path: str, label: str) -> Iterator[bytes]:
    """Yields the lines without line feeds. Raises InputError for a line larger than a quarter of the free memory."""
    rest: list[bytes] = []
    held, most = 0, memory_left() // 4
    for chunk in chunks(path, label):
        # Not splitlines: it also breaks at U+2028, which may stand inside a JSON string.
        first, *more = chunk.split(b"\n")
        rest.append(first)
        held += len(first)
        if held > most:
            raise _too_big(label, f"it has a line of more than {_shown(most)}, a quarter of the memory that is left")
        if more:
            yield b"".join(rest)
            yield from more[:-1]
            rest, held = more[-1:], len(more[-1])
    yield b"".join(rest)


def empty(label: str) -> InputError:
    """The error for an empty file."""
    return InputError(f"{label} is empty; expected rows with a prompt, a chosen and a rejected completion")


def check_growth(label: str, packed: int, unpacked: int) -> None:
    """Raises InputError if the compression ratio is too high for text."""
    if unpacked > _FREE_BYTES and unpacked > MOST_TIMES * max(packed, 1):
        raise _too_big(label, f"its first {_shown(packed)} decompress to {_shown(unpacked)}, too much for text")


def check_density(data: bytes, label: str) -> None:
    """Raises InputError for JSON that is mostly brackets and commas, if its values do not fit in the memory."""
    if len(data) < CHUNK_BYTES:
        return
    objects = _OBJECT_BYTES * data.count(b"{") + _VALUE_BYTES * (data.count(b"[") + data.count(b","))
    if objects > _DENSE * len(data) and objects > memory_left() // 2:
        raise _too_big(label, f"its values would take {_shown(objects)} of memory")


def require_memory(label: str) -> None:
    """Raises InputError if so little memory is left that the system might kill a process."""
    left = memory_left()
    if left < _RESERVE_BYTES:
        raise _too_big(label, f"its rows have filled the memory; {_shown(max(left, 0))} are left")


def memory_left() -> int:
    """Bytes of memory that this process can still use, by the limits of machine, container and process."""
    left = []
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().split("\n") if line)
        left.append(1024 * int(fields["MemAvailable"].split()[0]))
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            left.append(limit - resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0]))
        group = Path("/sys/fs/cgroup")
        left.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, KeyError):  # another system, no cgroup of version 2, or its limit is `max`
        pass
    return min(left, default=_UNKNOWN_BYTES)


def _opened(path: str) -> Any:
    if "://" in path:
        import fsspec

        return fsspec.open(path, "rb")
    return open(path, "rb")


def _too_big(label: str, why: str) -> InputError:
    return InputError(f"{label} is too big to be read: {why}; give a part of it, or use a machine with more memory")


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
