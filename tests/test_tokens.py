"""Token tables: what goes in comes out, and the count of what was cut and dropped is true."""

import numpy as np
import pytest

from mmpo_train.manifest import DamagedFolder
from mmpo_train.preferences import Message, PreferenceExample
from mmpo_train.templates import EncodedExample
from mmpo_train.tokens import CutCount, TokenTable, read_counts, read_table, tables_key, tokenise, write_tables


def ids(*values):
    return np.array(values, dtype=np.int32)


def example(prompt, completions, row=1):
    return PreferenceExample((Message("user", prompt),), tuple(completions), "pairs.json", row)


ROWS = [
    EncodedExample(ids(1, 2, 3), (ids(4), ids(5, 6)), 0, (0, 0)),
    EncodedExample(ids(7), (ids(8, 9, 10), ids(11)), 2, (1, 0)),
]


@pytest.fixture
def folder(tmp_path):
    write_tables(tmp_path / "tokens", {"train": ROWS, "validation": ROWS[1:]}, {"train": CutCount(kept=2)})
    return tmp_path / "tokens"


def test_tables_come_back_as_they_were_written(folder):
    table = read_table(folder, "train")
    assert [prompt.tolist() for prompt in table.prompts] == [[1, 2, 3], [7]]
    assert [[ids.tolist() for ids in row] for row in table.completions] == [[[4], [5, 6]], [[8, 9, 10], [11]]]
    assert {ids.dtype for row in table.completions for ids in (*row, *table.prompts)} == {np.dtype(np.int32)}
    assert [prompt.tolist() for prompt in read_table(folder, "validation").prompts] == [[7]]


def test_many_rows_come_back_in_order_across_row_groups(tmp_path):
    """More rows than parquet's pages hold, K = 3, lengths drawn at random."""
    random = np.random.default_rng(0)
    draw = lambda: random.integers(0, 50_000, random.integers(1, 9)).astype(np.int32)  # noqa: E731
    rows = [EncodedExample(draw(), (draw(), draw(), draw()), 0, (0, 0, 0)) for _ in range(5000)]
    write_tables(tmp_path / "tokens", {"train": rows}, {})
    table = read_table(tmp_path / "tokens", "train")
    assert len(table) == 5000
    for row, prompt, completions in zip(rows, table.prompts, table.completions, strict=True):
        assert np.array_equal(row.prompt, prompt)
        assert all(np.array_equal(a, b) for a, b in zip(row.completions, completions, strict=True))


def test_a_damaged_table_is_not_read(folder):
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DamagedFolder, match=r"train\.parquet has changed"):
        read_table(folder, "train")
    assert read_counts(folder) is None


def test_counts_come_back_and_are_none_where_nothing_was_made(folder, tmp_path):
    assert read_counts(folder) == {"train": CutCount(kept=2)}
    assert read_counts(tmp_path / "elsewhere") is None


def test_lengths_worked_by_hand(folder):
    table = read_table(folder, "train")
    assert table.completion_tokens.tolist() == [[1, 2], [3, 1]]
    assert table.longest.tolist() == [5, 4]


def test_lengths_of_one_prompt_with_its_longest_completion():
    table = TokenTable(prompts=(ids(1, 2),), completions=((ids(3), ids(4, 5, 6), ids(7)),))
    assert table.longest.tolist() == [5] and table.completion_tokens.tolist() == [[1, 3, 1]]


def test_what_was_cut_and_dropped_is_counted(tokenizer):
    """Of four examples one is the same within three tokens; a prompt and two completions are cut."""
    examples = [
        example("Add 1 and 3.", ["4.", "5."]),
        example("Add 1 and 3.", ["4.", "It is 5, and there is no doubt about it."], row=2),
        example("Add 1 and 3.", ["It is 4, I think.", "It is 4, I guess."], row=3),
        example("Please, please, please, " * 9 + "add 1 and 3.", ["It is 4.", "5."], row=4),
    ]
    lengths = [[len(tokenizer.encode(text)) + 1 for text in one.completions] for one in examples]
    encoded, count = tokenise(examples, tokenizer, max_prompt_tokens=40, max_completion_tokens=3)
    assert len(encoded) == count.kept == 3
    assert count.completions == 6 and count.prompts_cut == 1
    kept = [lengths[0], lengths[1], lengths[3]]
    assert count.completions_cut == sum(length > 3 for pair in kept for length in pair)
    assert count.tokens == sum(2 * len(one.prompt) + sum(map(len, one.completions)) for one in encoded)
    assert count.dropped == {"chosen and rejected are the same within 3 tokens": ["pairs.json row 3"]}


def test_the_count_is_told_in_words():
    rows = [f"pairs.json row {number}" for number in range(1, 8)]
    count = CutCount(kept=1200, prompts_cut=3, completions_cut=40, completions=2400, tokens=345_678)
    assert count.lines("train") == [
        "train: 1,200 pairs, 345,678 tokens; cut: 3 prompts on the left, 40 of 2,400 completions on the right"
    ]
    count.dropped["too odd"] = rows
    assert count.lines("train")[1] == f"train: 7 dropped, too odd ({', '.join(rows[:5])}, …)"
    count.dropped["too odd"] = rows[:2]
    assert count.lines("train")[1] == f"train: 2 dropped, too odd ({', '.join(rows[:2])})"


def test_tables_of_other_data_tokenizers_or_cuts_have_other_names():
    names = {
        tables_key("data", "model", 1800, 512),
        tables_key("other", "model", 1800, 512),
        tables_key("data", "other", 1800, 512),
        tables_key("data", "model", 1801, 512),
        tables_key("data", "model", 1800, 513),
        tables_key("data", "model", 512, 1800),
    }
    assert len(names) == 6
