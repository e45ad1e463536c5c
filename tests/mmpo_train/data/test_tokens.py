"""Token tables: what goes in comes out, and the count of what was cut and dropped is true."""

import numpy as np
import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.config import digest_of
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.templates import EncodedExample, Encoding
from mmpo_train.data.tokens import (
    NO_NOISE,
    CutCount,
    TokenTable,
    read_counts,
    read_questions,
    read_table,
    tables_key,
    tokenise,
    write_tables,
)
from mmpo_train.storage.manifest import DamagedFolder


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
    assert read_counts(folder, CutCount) is None


def test_counts_come_back_and_are_none_where_nothing_was_made(folder, tmp_path):
    assert read_counts(folder, CutCount) == {"train": CutCount(kept=2)}
    assert read_counts(tmp_path / "elsewhere", CutCount) is None


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
    encoded, count = tokenise(examples, tokenizer, Encoding(max_prompt_tokens=40, max_completion_tokens=3))
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
        "train: 1,200 prompts, 345,678 tokens; cut: 3 prompts on the left, 40 of 2,400 completions on the right"
    ]
    count.dropped["too odd"] = rows
    assert count.lines("train")[1] == f"train: 7 dropped, too odd ({', '.join(rows[:5])}, …)"
    count.dropped["too odd"] = rows[:2]
    assert count.lines("train")[1] == f"train: 2 dropped, too odd ({', '.join(rows[:2])})"


def test_tables_of_other_data_tokenizers_or_cuts_have_other_names():
    names = {
        tables_key("data", "model", Encoding(1800, 512)),
        tables_key("other", "model", Encoding(1800, 512)),
        tables_key("data", "other", Encoding(1800, 512)),
        tables_key("data", "model", Encoding(1801, 512)),
        tables_key("data", "model", Encoding(1800, 513)),
        tables_key("data", "model", Encoding(512, 1800)),
        tables_key("data", "model", Encoding(1800, 512, "added")),
        tables_key("data", "model", Encoding(1800, 512, "only")),
        tables_key("data", "model", Encoding(1800, 512, "none", "total")),
        tables_key("data", "model", Encoding(1800, 512, "none", "separate", "alone")),
    }
    assert len(names) == 10
    # Pinned: with what came later left alone, tables keep the names they had before.
    assert tables_key("data", "model", Encoding(1800, 512)) == digest_of(
        ["tokens-2", "data", "model", 1800, 512, "none"]
    )


def test_prompts_keep_all_their_completions_and_may_have_different_numbers(tokenizer, tmp_path):
    examples = [example("Add 1 and 3.", "45678"), example("Add 1 and 2.", "34")]
    encoded, count = tokenise(examples, tokenizer, Encoding(40, 5))
    write_tables(tmp_path / "tokens", {"train": encoded}, {"train": count})
    rows = read_table(tmp_path / "tokens", "train").completions
    texts = [[tokenizer.decode(ids) for ids in row] for row in rows]
    assert texts == [[f"{text}<|im_end|>" for text in "45678"], ["3<|im_end|>", "4<|im_end|>"]]
    assert count.completions == 7


def test_only_a_negative_that_is_the_same_after_the_cut_is_lost(tokenizer):
    """Within three tokens the second is the chosen, and the last the third; the row stays."""
    examples = [example("Add 1 and 3.", ["It is 4, I think.", "It is 4, I guess.", "5", "5"])]
    [one], count = tokenise(examples, tokenizer, Encoding(40, 3))
    assert len(one.completions) == 2 and tokenizer.decode(one.completions[1]) == "5<|im_end|>"
    assert count.repeated == 2 and not count.dropped
    assert "2 completions left out, the same tokens as another of their prompt" in count.lines("train")[1]


def test_questions_come_back_as_text_in_the_order_of_the_table(tokenizer, tmp_path):
    turns = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Add 1 and 3."))
    examples = [
        example("Add 1 and 2.", "34"),
        example("The same?", ["yes", "yes"]),
        PreferenceExample(turns, ("4", "5"), "pairs.json", 3),
    ]
    encoded, count = tokenise(examples, tokenizer, Encoding(40, 5))
    write_tables(tmp_path / "tokens", {"train": encoded}, {"train": count})
    assert read_questions(tmp_path / "tokens", "train") == [
        "Add 1 and 2.",
        "user: Hi\nassistant: Hello\nuser: Add 1 and 3.",
    ]


def test_noise_is_the_chosen_completion_with_two_tokens_swapped(tokenizer):
    """The same tokens, all but two in their place, the closing one at the end; the same in every run."""
    examples = [example("Add 1 and 3.", ["1 plus 3 is 4.", "5", "6"]), example("Add 2 and 3.", ["It is 5.", "6"])]
    encoded, count = tokenise(examples, tokenizer, Encoding(40, 20, "added"))
    assert [len(one.completions) for one in encoded] == [4, 3] and count.completions == 7
    for one in encoded:
        chosen, noise = one.completions[0], one.completions[-1]
        assert noise.dtype == np.int32
        assert sorted(noise) == sorted(chosen) and (noise != chosen).sum() == 2
        assert noise[-1] == chosen[-1] == tokenizer.eos_token_id
        assert len(one.completion_cuts) == len(one.completions)
    only, _ = tokenise(examples, tokenizer, Encoding(40, 20, "only"))
    for one, alone in zip(encoded, only, strict=True):
        assert [ids.tolist() for ids in alone.completions] == [
            one.completions[0].tolist(),
            one.completions[-1].tolist(),
        ]


def test_a_chosen_completion_that_was_cut_may_have_its_last_token_swapped(tokenizer):
    """Two tokens are left of it, none of them the closing one: there is one swap."""
    [one], _ = tokenise([example("Add 1 and 3.", ["It is 4.", "5"])], tokenizer, Encoding(40, 2, "only"))
    assert one.completions[1].tolist() == one.completions[0].tolist()[::-1]


@pytest.mark.parametrize("completions", [["4", "5"], ["44", "5"], ["45", "54"]])
def test_where_no_swap_gives_a_new_completion_there_is_no_noise(tokenizer, completions):
    """One token, two equal ones, and two whose only swap is a candidate already."""
    rows = [example("Add 1 and 3.", completions)]
    [one], count = tokenise(rows, tokenizer, Encoding(40, 20, "added"))
    assert len(one.completions) == 2 and count.without_noise == 1 and count.kept == 1
    assert count.lines("train")[1] == f"train: 1 prompts without a noise candidate, {NO_NOISE}"
    encoded, count = tokenise(rows, tokenizer, Encoding(40, 20, "only"))
    assert encoded == [] and count.dropped == {NO_NOISE: ["pairs.json row 1"]}
