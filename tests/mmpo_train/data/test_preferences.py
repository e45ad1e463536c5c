"""Preference data: formats, sources, splits, and what is said about data that cannot be used."""

import csv
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mmpo_train.data.preferences import Message, PreferenceExample, as_pairs, load_preferences
from mmpo_train.data.rows import RowProblem, parse_row
from mmpo_train.data.sources import choose_splits, split_address
from mmpo_train.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]

USER = Message("user", "2 + 2?")
SYSTEM = Message("system", "Be brief.")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(number, chosen="yes", rejected="no"):
    return {"prompt": f"question {number}", "chosen": chosen, "rejected": rejected}


def pairs(count):
    return [pair(number) for number in range(count)]


def write(path, rows):
    """The rows as a JSON list, or as one object a line."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load_file(folder, rows, **options):
    return load_preferences([write(folder / "pairs.json", rows)], **options)


def everything(data):
    """All examples of a file in the order of their rows, before the hold-out took some away."""
    return sorted(data.train + data.validation, key=lambda example: example.row)


def refusal(sources, **options):
    with pytest.raises(InputError) as caught:
        load_preferences([str(source) for source in sources], **options)
    return str(caught.value)


def refused_rows(folder, rows, **options):
    return refusal([write(folder / "pairs.json", rows)], **options)


def parsed(row, negatives_from_rank=2):
    """The prompt and the completions."""
    prompt, completions, _ = parse_row(row, negatives_from_rank)
    return prompt, completions


def problem(row):
    with pytest.raises(RowProblem) as caught:
        parse_row(row)
    return caught.value


# --- formats of a row


def test_text_columns_become_one_user_message_and_two_completions():
    assert parsed({"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "score": 1}) == (
        (USER,),
        ("4", "5"),
    )


def test_text_is_kept_as_it_stands():
    row = {"prompt": "  2 + 2?\n", "chosen": "4 ", "rejected": "\n5"}
    assert parsed(row) == ((Message("user", "  2 + 2?\n"),), ("4 ", "\n5"))


def test_ultrafeedback_row_takes_its_prompt_from_the_turns():
    row = {
        "prompt": "2 + 2?",
        "prompt_id": "f0e37e9f",
        "chosen": [user("2 + 2?"), assistant("4")],
        "rejected": [user("2 + 2?"), assistant("5")],
        "messages": [user("2 + 2?"), assistant("4")],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    }
    assert parsed(row) == ((USER,), ("4", "5"))


@pytest.mark.parametrize("prompt", ["2 + 2?", "Be brief.\n2 + 2?", "Be brief.", None])
def test_orca_row_keeps_the_system_message_in_front(prompt):
    head = [{"role": "system", "content": "Be brief."}, user("2 + 2?")]
    row = {"prompt": prompt, "chosen": [*head, assistant("4")], "rejected": [*head, assistant("5")]}
    assert parsed(row) == ((SYSTEM, USER), ("4", "5"))


def test_empty_system_message_is_left_out():
    head = [{"role": "system", "content": ""}, user("2 + 2?")]
    row = {"prompt": "2 + 2?", "chosen": [*head, assistant("4")], "rejected": [*head, assistant("5")]}
    assert parsed(row) == ((USER,), ("4", "5"))


def test_explicit_prompt_messages_take_completions_of_one_turn():
    head = [user("hi"), assistant("hello"), user("2 + 2?")]
    row = {"prompt": head, "chosen": [assistant("4")], "rejected": [assistant("5")]}
    prompt, completions = parsed(row)
    assert [message.role for message in prompt] == ["user", "assistant", "user"]
    assert completions == ("4", "5")


def test_prompt_messages_repeated_in_chosen_and_rejected_count_once():
    head = [{"role": "system", "content": "Be brief."}, user("2 + 2?")]
    row = {"prompt": head, "chosen": [*head, assistant("4")], "rejected": [*head, assistant("5")]}
    assert parsed(row) == ((SYSTEM, USER), ("4", "5"))


def test_system_of_the_prompt_column_is_kept_when_the_turns_leave_it_out():
    row = {
        "prompt": [{"role": "system", "content": "Be brief."}, user("2 + 2?")],
        "chosen": [user("2 + 2?"), assistant("4")],
        "rejected": [user("2 + 2?"), assistant("5")],
    }
    assert parsed(row) == ((SYSTEM, USER), ("4", "5"))


def test_prompt_text_that_the_turns_do_not_hold_is_not_lost_unseen():
    turns = [user("2 + 2?")]
    row = {
        "prompt": "A story.",
        "chosen": [*turns, assistant("4")],
        "rejected": [*turns, assistant("5")],
    }
    assert problem(row).reason == "prompts of chosen and rejected differ"


def test_sharegpt_row_with_system_column():
    row = {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "hi"},
            {"from": "gpt", "value": "hello"},
            {"from": "human", "value": "2 + 2?"},
        ],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "assistant", "value": "5"},
    }
    prompt, completions = parsed(row)
    assert prompt == (SYSTEM, Message("user", "hi"), Message("assistant", "hello"), USER)
    assert completions == ("4", "5")


def test_nectar_row_is_parsed_into_turns_and_ordered_by_rank():
    row = {
        "prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2 + 2?\n\nAssistant: ",
        "answers": [
            {"answer": "5", "model": "a", "rank": 3.0},
            {"answer": "4", "model": "b", "rank": 1.0},
            {"answer": "four", "model": "c", "rank": 2.0},
        ],
    }
    prompt, completions = parsed(row)
    assert prompt == (Message("user", "hi"), Message("assistant", "hello"), USER)
    assert completions == ("4", "four", "5")


def test_completions_with_ranks_put_rank_one_first():
    row = {"prompt": "2 + 2?", "completions": ["5", "4", "four"], "ranks": [3, 1, 2]}
    assert parsed(row) == ((USER,), ("4", "four", "5"))


def test_answer_tied_with_the_best_is_no_negative():
    row = {"prompt": "2 + 2?", "completions": ["4", "four", "5", "4"], "ranks": [1, 1, 2, 3]}
    assert parsed(row)[1] == ("4", "5")


def test_ranked_answers_that_all_tie_are_unusable():
    row = {"prompt": "2 + 2?", "completions": ["4", "four"], "ranks": [1, 1]}
    assert problem(row).reason == "nothing ranked below the chosen"


def seven(ranks=(1, 2, 3, 4, 5, 6, 7), number=0):
    """A row like Nectar's: the answer of rank n, if there is but one, is the n-th letter."""
    answers = [{"answer": letter, "rank": rank} for letter, rank in zip("abcdefg", ranks)]
    return {"prompt": f"question {number}", "answers": answers}


@pytest.mark.parametrize(
    ("ranks", "kept", "left_out"),
    [
        ((1, 2, 3, 4, 5, 6, 7), "acdefg", 1),
        # 0 is best, so 1 is the second rank.
        ((0, 1, 2, 3, 4, 5, 6), "acdefg", 1),
        # Rank 2 was left out before.
        ((1, 3, 4, 5, 6, 7), "abcdef", 0),
        # b ties with the best; c and d share the second rank.
        ((1, 1, 2, 2, 3, 4, 5), "aefg", 3),
        # The lowest rank stays, whatever it is, with all that have it.
        ((1, 2, 2), "abc", 0),
        ((1, 2), "ab", 0),
        ((1, 1, 2), "ac", 1),
    ],
)
def test_rank_two_is_left_out_as_of_nectar(ranks, kept, left_out):
    assert parse_row(seven(ranks), negatives_from_rank=3)[1:] == (tuple(kept), left_out)


def test_from_rank_two_all_are_kept_and_from_beyond_the_last_only_the_lowest():
    assert [parsed(seven(), rank)[1] for rank in (2, 4, 7, 100)] == [
        tuple("abcdefg"),
        tuple("adefg"),
        ("a", "g"),
        ("a", "g"),
    ]


def test_ranks_of_pairs_do_not_matter():
    row = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    assert parse_row(row, negatives_from_rank=9) == ((USER,), ("4", "5"), 0)


@pytest.mark.parametrize(
    ("count", "kept"), [(0, "acdefg"), (1, "ag"), (2, "afg"), (3, "aefg"), (4, "adefg"), (5, "acdefg"), (6, "acdefg")]
)
def test_the_lowest_ranked_negatives_of_train_prompts_are_kept(tmp_path, count, kept):
    """Validation is on the same pairs whatever their number; b, of rank 2, is left out of all ten."""
    rows = [seven(number=number) for number in range(10)]
    data = load_file(tmp_path, rows, worst_negatives=count)
    assert {example.completions for example in data.train} == {tuple(kept)}
    assert data.validation == load_file(tmp_path, rows).validation
    assert [len(example.completions) for example in data.validation] == [2]
    assert data.audit.answers_left_out == 10 + 9 * (6 - len(kept))
    assert f"{data.audit.answers_left_out} ranked answers left out" in data.audit.lines()


def test_of_answers_tied_at_the_cut_the_later_are_kept_and_short_sets_stay_whole(tmp_path):
    rows = [seven((1, 3, 3, 3)), seven((1, 3), number=1), pair(2)]
    data = load_file(tmp_path, rows, worst_negatives=2, validation_share=0)
    assert [example.completions for example in data.train] == [("a", "c", "d"), ("a", "b"), ("yes", "no")]


def test_drawn_validation_pairs_are_part_of_the_fingerprint(tmp_path):
    """The splits are named, so the seed draws nothing but the rejected completions."""
    write(tmp_path / "train.jsonl", pairs(3))
    write(tmp_path / "test.jsonl", [seven(number=number) for number in range(20)])
    one, two = (load_preferences([str(tmp_path)], seed=seed) for seed in (1, 2))
    assert one.train == two.train and one.validation != two.validation
    assert one.fingerprint != two.fingerprint


def test_embedded_ranked_answers_have_the_prompts_of_the_embedded_pairs():
    """Rank 2 is left out of 1024 + 512 prompts; most train prompts have five negatives, some fewer."""
    ranked, plain = load_preferences(["tiny_ranked"]), load_preferences(["tiny"])
    assert [example.prompt for example in ranked.train] == [example.prompt for example in plain.train]
    assert [example.prompt for example in ranked.validation] == [example.prompt for example in plain.validation]
    assert Counter(len(example.completions) - 1 for example in ranked.train) == {5: 726, 4: 197, 3: 101}
    assert {len(example.completions) for example in ranked.validation} == {2}
    assert ranked.audit.answers_left_out == 1536


def test_embedded_pairs_are_those_they_have_always_been():
    """Trials are named by this."""
    expected = "9a2728359f266e7b19e8830d6ea5ffdfa9c28e1a546761f663370f49bfb0dd86"
    assert load_preferences(["tiny"]).fingerprint == expected


def test_hh_rlhf_transcripts_share_their_prompt():
    head = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2 + 2?\n\nAssistant:"
    prompt, completions = parsed({"chosen": f"{head} 4", "rejected": f"{head} 5"})
    assert [message.role for message in prompt] == ["user", "assistant", "user"]
    assert completions == ("4", "5")


def test_instruction_with_input_and_question_with_system_stand_for_the_prompt():
    answers = {"chosen": "4", "rejected": "5"}
    assert parsed({"instruction": "Add.", "input": "2 + 2", **answers})[0] == (Message("user", "Add.\n2 + 2"),)
    assert parsed({"instruction": "Add.", "input": "", **answers})[0] == (Message("user", "Add."),)
    assert parsed({"system": "Be brief.", "question": "2 + 2?", **answers})[0] == (SYSTEM, USER)


def test_turns_before_the_completion_must_agree():
    row = {
        "chosen": [user("2 + 2?"), assistant("4")],
        "rejected": [user("2 + 3?"), assistant("5")],
    }
    found = problem(row)
    assert found.severity == "unusable"
    assert "turn 1 is user '2 + 2?' and user '2 + 3?'" in found.detail


@pytest.mark.parametrize(
    "row, reason",
    [
        (
            {"prompt": [user("a"), assistant("b")], "chosen": "4", "rejected": "5"},
            "prompt does not end with a user turn",
        ),
        (
            {"prompt": "a", "chosen": [user("a"), user("b")], "rejected": "5"},
            "completion is not an assistant turn",
        ),
        (
            {"prompt": [user("a"), {"role": "tool", "content": None}], "chosen": "4", "rejected": "5"},
            "unknown role",
        ),
    ],
)
def test_conversation_without_a_completion_to_a_user_turn_is_unusable(row, reason):
    found = problem(row)
    assert (found.reason, found.severity) == (reason, "unusable")


@pytest.mark.parametrize(
    "row, said",
    [
        (
            {"prompt": "a", "chosen": 3, "rejected": "5"},
            "chosen should be text or messages, found a number 3",
        ),
        ({"prompt": 7, "chosen": "4", "rejected": "5"}, "prompt should be text, found a number 7"),
        ({"prompt": ["a"], "chosen": "4", "rejected": "5"}, "prompt[1] should be a message, found 'a'"),
        (
            {"prompt": [{"text": "a"}], "chosen": "4", "rejected": "5"},
            "prompt[1] should have role and content",
        ),
        ({"prompt": "a", "chosen": "\ud83d", "rejected": "5"}, "half a surrogate pair"),
        ({"prompt": "a", "completions": ["4", "5"], "ranks": [1]}, "2 completions but 1 ranks"),
        ({"prompt": "a", "completions": ["4", "5"], "ranks": [1, "second"]}, "rank 2 should be a number"),
        ({"prompt": "a", "answers": ["4", "5"]}, "answers[1]: expected an object with answer and rank"),
        (["a", "4", "5"], "expected an object with named columns, found a list"),
    ],
)
def test_wrong_types_say_what_was_found(row, said):
    found = problem(row)
    assert found.severity == "malformed"
    assert said in found.detail


def test_missing_columns_are_named_together_with_those_that_come_near():
    found = problem({"question_text": "a", "Chosen": "4", "reject": "5"})
    assert found.detail == (
        "no 'prompt', no 'chosen' (did you mean 'Chosen'?), no 'rejected' (did you mean 'reject'?); "
        "columns: question_text, Chosen, reject"
    )


# --- files


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


def test_parquet_and_saved_folder_hold_the_same_data_as_json(tmp_path):
    import datasets

    rows = [
        {"prompt": f"question {i}", "chosen": [user(f"question {i}"), assistant("yes")],
         "rejected": [user(f"question {i}"), assistant("no")], "score_chosen": 1.0}
        for i in range(5)
    ]  # fmt: skip
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "pairs.parquet")
    table.save_to_disk(tmp_path / "saved")
    loaded = [
        load_preferences([source])
        for source in (
            write(tmp_path / "pairs.json", rows),
            str(tmp_path / "pairs.parquet"),
            f"{tmp_path / 'saved'}:train",
        )
    ]
    assert len({data.fingerprint for data in loaded}) == 1
    assert [example.row for example in everything(loaded[1])] == [1, 2, 3, 4, 5]


def test_saved_dataset_dict_keeps_its_splits(tmp_path):
    import datasets

    splits = {"train_prefs": pairs(3), "train_sft": pairs(9), "test_prefs": [pair(50), pair(51)]}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    saved.save_to_disk(tmp_path / "saved")
    data = load_preferences([str(tmp_path / "saved")])
    assert (len(data.train), len(data.validation)) == (3, 2)
    assert data.train[0].source == f"{tmp_path / 'saved'}:train_prefs"


def test_folder_of_files_gives_a_split_per_name(tmp_path, monkeypatch):
    """The folder is called `json`: to datasets that is a reader, and would take the files beside it too."""
    monkeypatch.chdir(tmp_path)
    write(Path("train.jsonl"), pairs(7))
    Path("json").mkdir()
    write(Path("json/train.jsonl"), pairs(4))
    write(Path("json/test.jsonl"), [pair(9)])
    data = load_preferences(["json"])
    assert (len(data.train), len(data.validation)) == (4, 1)
    assert data.validation[0].source == "json/test.jsonl"


def test_single_files_are_read_through_fsspec():
    import fsspec

    with fsspec.open("memory://bucket/pairs.jsonl", "w") as file:
        file.write("".join(json.dumps(row) + "\n" for row in pairs(3)))
    assert len(everything(load_preferences(["memory://bucket/pairs.jsonl:train"]))) == 3
    assert "cannot be read" in refusal(["memory://bucket/other.jsonl"])
    assert "only single files" in refusal(["s3://bucket/folder:train"])


def test_preference_demo_file_is_used_whole():
    """300 ShareGPT rows with 295 prompts, of which a tenth is held out: 30 (29.5, to even)."""
    path = REPOSITORY / ".." / "shared" / "data" / "preferences" / "dpo_en_demo.json"
    if not path.exists():
        pytest.skip("the demo data is not beside this checkout")
    data = load_preferences([str(path)])
    examples = everything(data)
    roles = Counter(tuple(message.role for message in example.prompt) for example in examples)
    assert len(examples) + sum(map(len, data.audit.parts[0].dropped.values())) == 300
    assert len({example.prompt for example in examples}) == 295
    assert len({example.prompt for example in data.validation}) == 30
    assert roles[("system", "user")] == 80
    assert examples[0].prompt[0].content.startswith("Hi! I'd like to create a new language game")


# --- addresses and splits


@pytest.mark.parametrize(
    "given, expected",
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name:train_prefs:test_prefs", ("owner/name", "train_prefs", "test_prefs")),
        ("owner/name::test", ("owner/name", None, "test")),
        ("missing/pairs.json:train", ("missing/pairs.json", "train", None)),
        ("s3://bucket/pairs.jsonl", ("s3://bucket/pairs.jsonl", None, None)),
        ("s3://bucket/pairs.jsonl:train:test", ("s3://bucket/pairs.jsonl", "train", "test")),
        ("http://host:8080/pairs.jsonl", ("http://host:8080/pairs.jsonl", None, None)),
    ],
)
def test_source_is_an_address_and_up_to_two_splits(given, expected):
    assert split_address(given) == expected


def test_path_with_a_colon_is_a_path(tmp_path):
    path = write(tmp_path / "12:30.json", pairs(3))
    assert split_address(path) == (path, None, None)
    assert split_address(f"{path}:train") == (path, "train", None)
    assert len(everything(load_preferences([f"{path}:train"]))) == 3


@pytest.mark.parametrize(
    "names, asked, expected",
    [
        (["train_sft", "train_prefs", "train", "test_prefs"], (None, None), ("train_prefs", "test_prefs")),
        (["train", "test", "validation"], (None, None), ("train", "validation")),
        (["en"], (None, None), ("en", None)),
        (["train", "test"], ("test", None), ("test", None)),
        (["en", "eval"], (None, "eval"), ("en", "eval")),
    ],
)
def test_splits_not_named_are_the_customary_ones(names, asked, expected):
    assert choose_splits("owner/name", names, *asked) == expected


def test_several_train_splits_are_never_merged():
    with pytest.raises(InputError, match="which split to train on.*owner/name has: helpful, harmless"):
        choose_splits("owner/name", ["helpful", "harmless"], None, None)


def test_unknown_split_lists_those_that_exist():
    with pytest.raises(InputError, match="no split 'train_pref'; did you mean 'train_prefs'.*has: train_prefs, test"):
        choose_splits("owner/name", ["train_prefs", "test"], "train_pref", None)


@pytest.mark.parametrize("asked", [("train", "train"), (None, "train")])
def test_one_split_cannot_be_both_sides(asked):
    with pytest.raises(InputError, match="both train and validation"):
        choose_splits("pairs.json", ["train"], *asked)


def test_no_prompt_is_on_both_sides_of_the_hold_out(tmp_path):
    rows = [pair(number % 40, chosen=f"yes {number}") for number in range(120)]
    data = load_file(tmp_path, rows)
    held = {example.prompt for example in data.validation}
    assert len(held) == 4
    assert len(data.validation) == data.audit.held_out == 12
    assert not held & {example.prompt for example in data.train}


def test_hold_out_depends_on_the_seed_and_on_nothing_else(tmp_path):
    rows = pairs(50)
    first = load_file(tmp_path, rows)
    assert load_file(tmp_path, rows).validation == first.validation
    held = {example.prompt for example in first.validation}
    assert {example.prompt for example in load_file(tmp_path, rows[::-1]).validation} == held
    assert {example.prompt for example in load_file(tmp_path, rows, seed=43).validation} != held


def test_hold_out_takes_at_least_one_prompt_and_none_when_asked(tmp_path):
    assert len(load_file(tmp_path, pairs(3)).validation) == 1
    assert load_file(tmp_path, pairs(3), validation_share=0).validation == ()
    assert len(load_file(tmp_path, pairs(2), validation_share=0.9).train) == 1
    assert "all examples share one prompt" in refused_rows(tmp_path, [pair(1), pair(1, chosen="sure")])


def test_mixture_joins_sources_in_the_order_given(tmp_path):
    one = write(tmp_path / "one.json", pairs(20))
    two = write(tmp_path / "two.jsonl", [pair(number) for number in range(100, 110)])
    data = load_preferences([two, one])
    assert [example.source for example in data.train] == [two] * 9 + [one] * 18
    assert [example.source for example in data.validation] == [two] + [one] * 2


def test_prompt_shared_by_two_held_out_sources_stays_on_one_side(tmp_path):
    """The first source alone holds out a prompt that the second alone would train on."""
    sources = [
        write(tmp_path / f"{size}.json", [pair(number, rejected=f"no {size}") for number in range(size)])
        for size in (10, 30)
    ]
    one, two = (load_preferences([source], validation_share=0.3) for source in sources)
    assert {example.prompt for example in one.validation} & {example.prompt for example in two.train}
    data = load_preferences(sources, validation_share=0.3)
    assert not {example.prompt for example in data.train} & {example.prompt for example in data.validation}
    assert data.audit.shared_prompts == 0


def test_validation_prompts_also_in_train_are_kept_and_counted(tmp_path):
    write(tmp_path / "train.jsonl", pairs(4))
    write(tmp_path / "test.jsonl", [pair(3, rejected="never"), pair(7)])
    data = load_preferences([str(tmp_path)])
    assert len(data.validation) == 2
    assert data.audit.shared_prompts == 1
    assert "warning: 1 validation prompts also in train" in data.audit.lines()


def test_fingerprint_knows_the_content_and_not_the_path(tmp_path):
    rows = pairs(10)
    plain = load_preferences([write(tmp_path / "one.json", rows)]).fingerprint
    assert load_preferences([write(tmp_path / "two.jsonl", rows)]).fingerprint == plain
    changed = [*rows[:9], pair(9, rejected="no.")]
    other = {
        load_file(tmp_path, changed).fingerprint,
        load_file(tmp_path, rows[::-1]).fingerprint,
        load_file(tmp_path, rows, validation_share=0.5).fingerprint,
    }
    assert len(other | {plain}) == 4


def test_fingerprint_knows_on_which_side_an_example_is(tmp_path):
    rows = pairs(3)
    prints = set()
    for name, cut in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", rows[:cut])
        write(tmp_path / name / "test.jsonl", rows[cut:])
        prints.add(load_preferences([str(tmp_path / name)]).fingerprint)
    assert len(prints) == 2


def test_fingerprint_is_sha256_of_one_json_line_per_example(tmp_path):
    """Recomputed with the shell's sha256sum over the lines as documented."""
    data = load_file(tmp_path, [pair(1), pair(2, chosen="ja, schön")], validation_share=0)
    lines = '["train",[["user","question 1"]],["yes","no"]]\n["train",[["user","question 2"]],["ja, schön","no"]]\n'
    golden = subprocess.run(["sha256sum"], input=lines.encode(), capture_output=True, check=True)
    assert data.fingerprint == golden.stdout.decode().split()[0]


# --- pairs out of ranked sets


def test_as_pairs_draws_every_lower_ranked_completion_about_equally():
    """600 draws out of three: 200 each expected, standard deviation 12; 150 to 250 is four of them."""
    drawn = Counter()
    for number in range(600):
        example = PreferenceExample((Message("user", str(number)),), ("a", "b", "c", "d"), "x", number)
        chosen, rejected = as_pairs(example, seed=1).completions
        assert chosen == "a"
        drawn[rejected] += 1
    assert set(drawn) == {"b", "c", "d"}
    assert all(150 < count < 250 for count in drawn.values())


def test_as_pairs_depends_on_seed_and_content_and_not_on_the_source():
    examples = [
        PreferenceExample((Message("user", str(number)),), tuple("abcdefgh"), "x", number) for number in range(20)
    ]
    moved = [
        PreferenceExample(example.prompt, example.completions, "elsewhere", example.row + 1) for example in examples
    ]
    drawn = [as_pairs(example, seed=1).completions for example in examples]
    assert [as_pairs(example, seed=1).completions for example in moved] == drawn
    assert [as_pairs(example, seed=2).completions for example in examples] != drawn


def test_as_pairs_leaves_a_pair_alone():
    example = PreferenceExample((USER,), ("4", "5"), "x", 1)
    assert as_pairs(example, seed=1) is example


# --- bad rows


def test_all_bad_rows_of_a_source_are_reported_at_once(tmp_path):
    rows = [
        pair(0),
        {"prompt": "a", "chosen": "4"},
        pair(2, rejected=" \n"),
        {"prompt": "", "chosen": "4", "rejected": "5"},
        pair(4, chosen="no"),
        "text",
        pair(6, chosen=1),
        pair(7, chosen=""),
    ]
    message = refused_rows(tmp_path, rows)
    path = tmp_path / "pairs.json"
    assert message.splitlines()[0] == f"{path}: 7 of 8 rows refused"
    assert "  2 x empty completion" in message
    assert f"{path}, row 2: no 'rejected'; columns: prompt, chosen" in message
    assert f"{path}, row 3: rejected is empty" in message
    assert f"{path}, row 4: the prompt is empty" in message
    assert f"{path}, row 5: chosen and rejected are the same text, 'no'" in message
    assert f"{path}, row 6: expected an object with named columns, found 'text'" in message
    assert "and 2 more" in message
    assert "--drop-bad-rows" in message


def test_drop_bad_rows_drops_and_counts_them(tmp_path):
    rows = [pair(0), {"prompt": "a"}, pair(2, rejected=""), pair(3, chosen="no"), "text", pair(5)]
    audit = load_file(tmp_path, rows, drop_bad_rows=True).audit
    (part,) = audit.parts
    assert (part.rows, part.kept) == (6, 2)
    assert part.dropped == {
        "missing column": [2],
        "empty completion": [3],
        "chosen equals rejected": [4],
        "not an object": [5],
    }
    assert json.loads(json.dumps(audit.as_dict()))["parts"][0]["kept"] == 2


def test_duplicates_and_other_unusable_rows_are_dropped_and_counted(tmp_path):
    rows = [pair(0), pair(1), pair(0), {"prompt": "a", "completions": ["4", "5"], "ranks": [1, 1]}]
    audit = load_file(tmp_path, rows).audit
    assert audit.parts[0].dropped == {"exact duplicate": [3], "nothing ranked below the chosen": [4]}
    assert audit.lines() == [
        f"{tmp_path / 'pairs.json'} (train): 2 of 4 rows kept, 2 dropped",
        "  dropped 1: exact duplicate (row 3)",
        "  dropped 1: nothing ranked below the chosen (row 4)",
        "train 1, validation 1 (1 held out by prompt); completions per train prompt: 1 of 2",
    ]


def test_strict_refuses_unusable_rows_too(tmp_path):
    message = refused_rows(tmp_path, [pair(0), pair(1), pair(0)], strict=True)
    path = tmp_path / "pairs.json"
    assert f"{path}, row 3: the same as row 1 of {path}" in message
    assert "--strict" in message
    assert "pass one of the two" in refused_rows(tmp_path, pairs(3), strict=True, drop_bad_rows=True)


def test_nothing_left_says_why_and_names_the_first_rows(tmp_path):
    message = refused_rows(tmp_path, [pair(n, chosen="no") for n in range(9)], drop_bad_rows=True)
    assert "none of 9 rows can be used" in message
    assert "9 x chosen equals rejected" in message
    assert "row 1: chosen and rejected are the same text" in message
    assert "and 4 more" in message


def test_options_that_make_no_sense_are_refused_together():
    bad = {"validation_share": 1.0, "negatives_from_rank": 1, "worst_negatives": -1}
    message = refusal([], strict=True, drop_bad_rows=True, **bad)
    assert len(message.splitlines()) == 5


# --- files that cannot be read


def test_missing_file_suggests_near_names(tmp_path):
    write(tmp_path / "pairs.json", pairs(2))
    message = refusal([tmp_path / "pair.json"])
    assert f"no file or folder {tmp_path / 'pair.json'} (did you mean {tmp_path / 'pairs.json'}?)" in message
    assert "there is no folder" in refusal([tmp_path / "nowhere" / "pairs.json"])


def test_empty_files_are_named(tmp_path):
    (tmp_path / "empty.json").write_text(" \n")
    assert "empty.json is empty" in refusal([tmp_path / "empty.json"])
    assert "holds no rows" in refusal([write(tmp_path / "list.json", [])])
    (tmp_path / "header.csv").write_text("prompt,chosen,rejected\n")
    assert "holds no rows" in refusal([tmp_path / "header.csv"])


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


def test_json_that_is_no_list_says_what_it_is(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"data": pairs(2)}))
    message = refusal([path])
    assert "should hold a list of objects" in message and "the list under 'data'" in message
    path.write_text("3")
    assert "but holds 3" in refusal([path])
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pairs(2)))
    assert "name it .json" in refusal([tmp_path / "pairs.jsonl"])


def test_other_encodings_are_refused_with_the_byte(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xfcber"}\n')
    assert "byte 0xfc at offset 28 (line 2)" in refusal([path])
    path.write_bytes(json.dumps(pair(1)).encode("utf-16"))
    assert "iconv -f UTF-16 -t UTF-8" in refusal([path])


def test_broken_csv_is_refused_with_the_line(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen,rejected\na,4,5\nb,"4,5\nc,4,5\n')
    assert "broken CSV near line 4" in refusal([path])
    path.write_text("prompt,chosen,chosen\na,4,5\n")
    assert "names the column chosen twice" in refusal([path])
    path.write_text("prompt,chosen,rejected\na,4,5\nb,4,5,6\n")
    assert "row 2 (ends at line 3): 4 cells under 3 columns" in refusal([path])


def test_messages_written_as_text_into_csv_are_not_trained_on(tmp_path):
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        turns = [str([user("a"), assistant(answer)]) for answer in ("4", "5")]
        csv.writer(file).writerows([["prompt", "chosen", "rejected"], ["a", *turns]])
    assert "save messages as .jsonl or .parquet" in refusal([path])


def test_broken_parquet_is_refused(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1 but not really PAR1")
    assert "pairs.parquet is no readable parquet file" in refusal([path])


def test_unknown_extension_lists_the_known_ones(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("prompt")
    assert "ends in .json, .jsonl, .ndjson, .csv, .parquet" in refusal([path])


def test_folder_without_data_says_what_it_holds(tmp_path):
    assert "(it holds nothing)" in refusal([tmp_path])
    (tmp_path / "README.md").write_text("nothing here")
    message = refusal([tmp_path])
    assert "holds no dataset that can be read (it holds README.md)" in message
    assert "save_to_disk" in message


def test_bad_row_in_a_folder_is_named_with_its_file(tmp_path):
    write(tmp_path / "train.jsonl", pairs(3))
    write(tmp_path / "test.jsonl", [pair(5), pair(6, chosen="")])
    message = refusal([tmp_path])
    assert f"{tmp_path / 'test.jsonl'}, line 2: chosen is empty" in message


# --- the hub


@pytest.fixture
def cached_dataset(tmp_path, monkeypatch):
    """Writes rows into the cache of `datasets` as acme/pairs, and goes offline as HF_HUB_OFFLINE=1 does."""
    import datasets
    import huggingface_hub

    def cache(**splits):
        held = tmp_path / "cache"
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(held))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        files = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in splits.items()}
        datasets.load_dataset("json", data_files=files)
        (info,) = held.glob("json/*/*/*/dataset_info.json")
        target = held / "acme___pairs" / "default" / "0.0.0" / ("a" * 40)
        shutil.copytree(info.parent, target)
        for file in target.glob("json-*.arrow"):
            file.rename(target / file.name.replace("json-", "pairs-", 1))

    return cache


def test_hub_dataset_drops_and_counts_the_bad_rows_that_nobody_here_can_mend(cached_dataset):
    cached_dataset(train_prefs=[pair(0), pair(1, chosen=""), pair(2, chosen="no")], test_prefs=[pair(5)])
    data = load_preferences(["acme/pairs"])
    assert [example.source for example in data.train] == ["acme/pairs:train_prefs"]
    assert data.audit.parts[0].dropped == {"empty completion": [2], "chosen equals rejected": [3]}
    assert "acme/pairs:train_prefs, row 2: chosen is empty" in refusal(["acme/pairs"], strict=True)


def test_hub_dataset_without_the_columns_is_refused(cached_dataset):
    cached_dataset(train=[{"text": "a"}, {"text": "b"}])
    message = refusal(["acme/pairs"])
    assert "no 'prompt', no 'chosen', no 'rejected'; columns: text" in message
    assert "local copy" in message


def test_unreachable_hub_is_said_quickly_with_the_way_to_a_local_copy(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs_v2").mkdir()
    start = time.monotonic()
    message = refusal(["pairs_v1"])
    assert time.monotonic() - start < 5
    assert "no file or folder here (did you mean pairs_v2?)" in message
    assert "the hub cannot be reached (ConnectError" in message
    assert "hf download --repo-type dataset pairs_v1 --local-dir FOLDER" in message


def test_dataset_unknown_to_the_hub_is_said_to_be_so(monkeypatch):
    import huggingface_hub

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        assert "nor a dataset on the hub that this login can see" in refusal(["acme/nothing"])
    finally:
        server.shutdown()


def test_importing_preferences_imports_no_heavy_library():
    heavy = "{'torch', 'ray', 'mlflow', 'datasets', 'pyarrow', 'transformers', 'huggingface_hub', 'fsspec'}"
    code = f"import sys, mmpo_train.data.preferences; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert run.stdout.strip() == "[]"
