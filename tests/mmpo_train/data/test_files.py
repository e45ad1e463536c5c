"""Files of rows: what each reader keeps, and what it says about a file that it cannot read."""

import csv
import gzip
import json

import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.data.preferences import load_preferences
from mmpo_train.data.rows import PreferenceExample
from tests.support.preference_files import assistant, everything, load_file, pair, pairs, refusal, user, write


def test_json_rows_count_from_one(tmp_path):
    data = load_file(tmp_path, pairs(3))
    first, *_ = everything(data)
    path = str(tmp_path / "pairs.json")
    assert first == PreferenceExample((Message("user", "question 0"),), ("yes", "no"), source=path, row=1)


def test_jsonl_rows_are_lines_of_the_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(pair(1))}\n\n{json.dumps(pair(2))}\r\n")
    assert [example.row for example in everything(load_preferences([str(path)]))] == [1, 3]


def test_jsonl_lines_do_not_end_at_a_unicode_line_separator(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [pair(1, chosen="one\u2028two"), pair(2)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert everything(load_preferences([str(path)]))[0].completions[0] == "one\u2028two"


def test_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,chosen,rejected\na,4,5\nb,4,5\n")
    assert len(everything(load_preferences([str(path)]))) == 2


def test_csv_keeps_long_cells_line_breaks_and_the_word_none(tmp_path):
    """`None` and `NA` are completions; pandas would read them as no value."""
    path = tmp_path / "pairs.csv"
    rows = [["a", "None", "NA"], ["b", "x" * 200_000, "1"], ["c", "two\nlines", "3"]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "chosen", "rejected"], *rows])
    examples = everything(load_preferences([str(path)]))
    assert [[example.prompt[0].content, *example.completions] for example in examples] == rows
    assert [example.row for example in examples] == [1, 2, 3]


def test_single_files_are_read_through_fsspec():
    import fsspec

    with fsspec.open("memory://bucket/pairs.jsonl", "w") as file:
        file.write("".join(json.dumps(row) + "\n" for row in pairs(3)))
    assert len(everything(load_preferences(["memory://bucket/pairs.jsonl:train"]))) == 3
    assert "cannot be read" in refusal(["memory://bucket/other.jsonl"])
    assert "only single files" in refusal(["s3://bucket/folder:train"])


def test_empty_files_are_named(tmp_path):
    (tmp_path / "empty.json").write_text(" \n")
    assert "empty.json is empty" in refusal([tmp_path / "empty.json"])
    assert "has no rows" in refusal([write(tmp_path / "list.json", [])])
    (tmp_path / "header.csv").write_text("prompt,chosen,rejected\n")
    assert "has no rows" in refusal([tmp_path / "header.csv"])


def test_broken_json_says_line_and_column(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text('[{"prompt": "a"},\n {"prompt": b}]')
    assert "broken JSON at line 2, column 13" in refusal([path])
    path.write_text(f"{json.dumps(pair(1))}\n{json.dumps(pair(2))}\n")
    assert "name it .jsonl" in refusal([path])


def test_broken_jsonl_line_is_a_bad_row(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{json.dumps(pair(1))}\n{{"prompt": "a", \n{json.dumps(pair(2))}\n')
    assert f"{path}, line 2: broken JSON at column" in refusal([path])
    data = load_preferences([str(path)], drop_bad_rows=True)
    assert data.audit.parts[0].dropped == {"unreadable row": [2]}


@pytest.mark.parametrize(
    ("value", "said"),
    [("9" * 5000, "a number of thousands of digits"), ("[" * 200_000 + "]" * 200_000, "brackets nested too deeply")],
    ids=["digits", "brackets"],
)
def test_json_that_nobody_means_is_refused_with_file_and_row(tmp_path, value, said):
    bad = f'{{"prompt": "a", "chosen": "b", "rejected": "c", "id": {value}}}'
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(pair(1))}\n{bad}\n{json.dumps(pair(2))}\n")
    assert f"{path}, line 2: JSON with {said}" in refusal([path])
    assert len(load_preferences([str(path)], drop_bad_rows=True).train) == 1
    path = tmp_path / "pairs.json"
    path.write_text(f"[{json.dumps(pair(1))}, {bad}]")
    assert f"{path}, row 2: JSON with {said}" in refusal([path])
    path.write_text(bad)
    assert said in refusal([path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{}, {}", "line 1, column 8: Expecting ',' delimiter"),
        ("[{}\n {}]", "line 2, column 2: Expecting ',' delimiter"),
        ("[{},]", "line 1, column 5: Expecting value"),
        ("[{}] 3", "line 1, column 5: Extra data"),
        ("[", "line 1, column 2: Expecting value"),
    ],
)
def test_a_list_that_is_no_json_is_refused_at_its_place(tmp_path, text, said):
    path = tmp_path / "pairs.json"
    path.write_text(text)
    assert f"{path} is broken JSON at {said}" in refusal([path], drop_bad_rows=True)


def test_keys_given_twice_are_noted_with_their_rows(tmp_path):
    twice = '{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}'
    for path, text in (
        (tmp_path / "pairs.jsonl", f"{json.dumps(pair(1))}\n{twice}\n"),
        (tmp_path / "pairs.json", f"[{json.dumps(pair(1))}, {twice}]"),
    ):
        path.write_text(text)
        data = load_preferences([str(path)], validation_share=0)
        assert data.audit.parts[0].noted == {"keys given twice": [2]} and data.train[1].completions == ("d", "c")


@pytest.mark.parametrize(("mark", "named"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_than_commas_are_named(tmp_path, mark, named):
    path = tmp_path / "pairs.csv"
    path.write_text(f"prompt{mark}chosen{mark}rejected\na, b{mark}4{mark}5\n")
    said = f"{path} has {named} between its columns (prompt, chosen, rejected): write it with commas"
    assert said in refusal([path])
    path.write_text(f'"prompt"{mark}"chosen"{mark}"rejected"\n"a, b"{mark}"4"{mark}"5"\n')
    assert said in refusal([path])


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array([text]) for text in ("a", "b", "c", "d")]
    table = pa.Table.from_arrays(columns, ["prompt", "chosen", "rejected", "chosen"])
    pq.write_table(table, tmp_path / "pairs.parquet")
    assert "has the column chosen twice" in refusal([tmp_path / "pairs.parquet"])


def test_a_table_gives_tools_no_arguments_that_they_do_not_have(tmp_path):
    """Arrow gives every object the keys of all: the call of one city would have a null for the other's country."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def call(arguments):
        return [{"role": "assistant", "content": None, "tool_calls": [{"name": "weather", "arguments": arguments}]}]

    rows = [
        {"prompt": f"{n}?", "chosen": call(arguments), "rejected": call({"city": "Rom"})}
        for n, arguments in enumerate([{"city": "Ulm"}, {"country": "DE"}])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "calls.parquet")
    loaded = [
        load_preferences([write(tmp_path / "calls.json", rows)]),
        load_preferences([str(tmp_path / "calls.parquet")]),
    ]
    assert len({data.fingerprint for data in loaded}) == 1


def test_json_that_is_no_list_says_what_it_is(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"data": pairs(2)}))
    message = refusal([path])
    assert "should be a list of objects" in message and "the list under 'data'" in message
    path.write_text("3")
    assert "but is 3" in refusal([path])
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pairs(2)))
    assert "name it .json" in refusal([tmp_path / "pairs.jsonl"])


def test_other_encodings_are_refused_with_the_byte(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xfcber"}\n')
    assert "byte 0xfc at offset 28 (line 2)" in refusal([path])
    path.write_bytes(json.dumps(pair(1)).encode("utf-16"))
    assert "iconv -f UTF-16 -t UTF-8" in refusal([path])
    path.write_bytes(gzip.compress(json.dumps(pair(1)).encode()))
    assert "is not text but compressed: give its name the ending .gz" in refusal([path])


def test_broken_csv_is_refused_with_the_line(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen,rejected\na,4,5\nb,"4,5\nc,4,5\n')
    assert "broken CSV near line 4" in refusal([path])
    path.write_text("prompt,chosen,chosen\na,4,5\n")
    assert "names the column chosen twice" in refusal([path])
    path.write_text("prompt,chosen,rejected\na,4,5\nb,4,5,6\n")
    assert "row 2 (ends at line 3): 4 cells under 3 columns" in refusal([path])


def test_messages_written_as_text_are_read_as_messages_by_every_reader(tmp_path):
    """As `json.dumps` and as `str` write them, which is what spreadsheets and data frames hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def rows(spell):
        turns = [[user(f"question {n}"), assistant(answer)] for n in range(3) for answer in ("yes", "no")]
        spelled = [spell(one) for one in turns]
        return [{"prompt": f"question {n}", "chosen": spelled[2 * n], "rejected": spelled[2 * n + 1]} for n in range(3)]

    expected = load_file(tmp_path, pairs(3)).fingerprint
    for spell in (json.dumps, str):
        with (tmp_path / "pairs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(rows(spell))
        pq.write_table(pa.Table.from_pylist(rows(spell)), tmp_path / "pairs.parquet")
        write(tmp_path / "pairs.json", rows(spell))
        write(tmp_path / "pairs.jsonl", rows(spell))
        for suffix in ("csv", "parquet", "json", "jsonl"):
            data = load_preferences([str(tmp_path / f"pairs.{suffix}")])
            assert data.fingerprint == expected, (suffix, spell)
            assert data.audit.parts[0].noted == {"messages read from JSON or Python text": [1, 2, 3]}


def test_broken_parquet_is_refused(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1 but not really PAR1")
    assert "pairs.parquet is not a readable Parquet file" in refusal([path])


def test_unknown_extension_lists_the_known_ones(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("prompt")
    assert "ends in .json, .jsonl, .ndjson, .csv, .parquet (then perhaps .gz, .zst" in refusal([path])
