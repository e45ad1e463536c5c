"""Packed files are read, and bombs refused by their size."""

import bz2
import gzip
import json
import lzma
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpo_train.data import packed
from mmpo_train.data.packed import chunks, lines, memory_left, whole
from mmpo_train.data.preferences import load_preferences
from mmpo_train.errors import InputError
from tests.support.preference_files import pair, pairs, refusal

PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
MEGABYTE = 1 << 20


@pytest.fixture
def memory(monkeypatch):
    """Sets how much memory is left, as far as the readers can tell."""
    return lambda size: monkeypatch.setattr(packed, "memory_left", lambda: size)


def written(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_packed_file_holds_the_same_rows(tmp_path, packing, suffix):
    forms = {
        ".jsonl": written(pairs(5)),
        ".json": json.dumps(pairs(5)).encode(),
        ".csv": "\n".join(["prompt,chosen,rejected", *(",".join(row.values()) for row in pairs(5))]).encode(),
    }
    (tmp_path / f"plain{suffix}").write_bytes(forms[suffix])
    (tmp_path / f"packed{suffix}{packing}").write_bytes(PACK[packing](forms[suffix]))
    plain, other = (load_preferences([str(tmp_path / name)]) for name in (f"plain{suffix}", f"packed{suffix}{packing}"))
    assert plain.fingerprint == other.fingerprint


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_packed_files_of_a_folder_are_splits_like_others(tmp_path, packing):
    for name, rows in (("train", pairs(5)), ("test", [pair(9)])):
        (tmp_path / f"{name}.jsonl{packing}").write_bytes(PACK[packing](written(rows)))
    data = load_preferences([str(tmp_path)])
    assert (len(data.train), len(data.validation)) == (5, 1)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_files_packed_one_behind_the_other_are_one_file(tmp_path, packing):
    path = tmp_path / f"pairs.jsonl{packing}"
    path.write_bytes(PACK[packing](written(pairs(3))) + PACK[packing](written([pair(3), pair(4)])))
    assert len(list(lines(str(path), "pairs"))) == 6  # and an empty one behind the last line feed


@pytest.mark.parametrize("packing", PACK)
def test_damaged_and_torn_files_are_refused(tmp_path, packing):
    path, data = tmp_path / f"pairs.jsonl{packing}", PACK[packing](written(pair(n, str(n * 7919)) for n in range(999)))
    path.write_bytes(b"no such packing" * 9)
    assert f"{path} cannot be read" in refusal([path])
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in refusal([path])


def test_parquet_inside_of_a_packed_file_is_read(tmp_path):
    pq.write_table(pa.Table.from_pylist(pairs(5)), tmp_path / "pairs.parquet")
    path = tmp_path / "pairs.parquet.gz"
    path.write_bytes(gzip.compress((tmp_path / "pairs.parquet").read_bytes()))
    assert len(load_preferences([str(path)]).train) == 4


def test_lines_are_those_of_the_file_wherever_chunks_end(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes("eins\r\n\nzwei\u2028drei\n".encode() + b"x" * 30)
    for size in (1, 2, 7, 1000):
        monkeypatch.setattr(packed, "CHUNK_BYTES", size)
        assert list(lines(str(path), "a")) == [b"eins\r", b"", "zwei\u2028drei".encode(), b"x" * 30]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_that_grows_as_no_text_does_is_refused_long_before_its_end(tmp_path, packing):
    """Two gigabytes of spaces, of which an eighth is unpacked."""
    path = tmp_path / f"bomb.jsonl{packing}"
    path.write_bytes(PACK[packing](b" " * (16 * MEGABYTE)) * 128)
    read = 0
    with pytest.raises(InputError, match="too big to be read: its first .* decompress to .*, too much for text"):
        for chunk in chunks(str(path), str(path)):
            read += len(chunk)
    assert read < 300 * MEGABYTE


def test_monotonous_tables_are_no_bombs(tmp_path):
    """Ten megabytes of nearly the same row pack to a hundredth, and stay far below what is free."""
    path = tmp_path / "pairs.jsonl.gz"
    rows = [pair(n, "yes " * 500, "no " * 500) for n in range(3_000)]
    path.write_bytes(gzip.compress(written(rows)))
    assert path.stat().st_size * 100 < len(written(rows))
    assert load_preferences([str(path)]).audit.parts[0].kept == 3_000


def test_a_file_or_a_line_of_more_than_a_quarter_of_the_memory_is_refused(tmp_path, memory):
    memory(8 * MEGABYTE)
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b" " * (3 * MEGABYTE) + b"]")
    with pytest.raises(InputError, match="longer than 2.1 MB, a quarter of the memory that is left"):
        whole(str(path), "a")
    with pytest.raises(InputError, match="a line of more than 2.1 MB"):
        list(lines(str(path), "a"))
    path.write_bytes(b"[\n" + b" \n" * (2 * MEGABYTE))
    assert len(list(lines(str(path), "a"))) == 2 * MEGABYTE + 2


def test_json_of_brackets_alone_is_refused_before_it_is_parsed(tmp_path, memory):
    """Two megabytes of empty objects, which would take 200 of memory."""
    memory(160 * MEGABYTE)
    for name, text in (("a.json", "[" + "{}," * 700_000 + "{}]"), ("b.jsonl", '{"a": [' + "[]," * 700_000 + "[]]}")):
        (tmp_path / name).write_text(text)
        assert "its values would take" in refusal([tmp_path / name])
    rows = [pair(n, "a, b, {c} " * 20, "d, [e] " * 20) for n in range(3_000)]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    assert len(load_preferences([str(tmp_path / "c.json")]).train) == 2_700


def test_rows_that_fill_the_memory_end_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr("mmpo_train.data.preferences._MEASURED_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(written(pairs(9)))
    assert len(load_preferences([str(path)]).train) == 8
    monkeypatch.setattr(packed, "memory_left", lambda: 1000)
    assert "its rows have filled the memory" in refusal([path])


@pytest.mark.parametrize("value", ["x" * 900_000, "x" * 3_000_000], ids=["by dictionary", "plain"])
def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path, value):
    """600 times one text: half a gigabyte by its number in a dictionary, or two as Zstandard packs them."""
    path = tmp_path / "bomb.parquet"
    schema = pa.schema(
        [("prompt", pa.dictionary(pa.int32(), pa.string())), ("chosen", pa.string()), ("rejected", pa.string())]
    )
    numbers = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000, pa.int32()), pa.array([value]))
    small = pa.array([str(n) for n in range(3_000)])
    pq.write_table(pa.table([numbers, small, small], schema=schema), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 2 * MEGABYTE
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "too big to be read" in refusal([path])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900 * 1024  # KiB


def test_memory_left_knows_this_process_own_limit():
    left = memory_left()
    assert 0 < left < 1 << 50
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MEGABYTE, hard))
    try:
        assert memory_left() <= 100 * MEGABYTE
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
