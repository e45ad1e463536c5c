"""Conversations: which rows are understood, what is refused, who validates."""

import json

import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.chat.problems import RowProblem
from mmpo_train.errors import InputError
from mmpo_train.sft.data import load_chats, parse_chat

USER, BOT = Message("user", "2+2?"), Message("assistant", "4")


def said(*turns):
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chats(count, rounds=1):
    return [
        {"messages": said(*[Message("user", f"Question {n}?"), Message("assistant", f"Answer {n}.")] * rounds)}
        for n in range(count)
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": said(USER, BOT)},
        {"messages": said(USER, BOT), "prompt": "2+2?", "prompt_id": "x"},
        {"messages": said(USER, BOT, Message("user", "And 3+3?"))},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"prompt": "2+2?", "completion": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
    ],
    ids=["messages", "UltraChat", "a last turn without answer", "ShareGPT", "prompt", "instruction"],
)
def test_every_form_of_a_row_is_the_same_conversation(row):
    assert parse_chat(row).turns == (USER, BOT)


def test_a_system_column_is_the_first_turn_unless_there_is_one():
    assert parse_chat({"messages": said(USER, BOT), "system": "Be brief."}).turns[0] == ("system", "Be brief.")
    own = Message("system", "Mine.")
    assert parse_chat({"messages": said(own, USER, BOT), "system": "Be brief."}).turns == (own, USER, BOT)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "not an object"),
        ({"text": "2+2? 4"}, "missing column"),
        ({"prompt": "2+2?"}, "missing column"),
        ({"messages": said(USER)}, "completion is not an assistant turn"),
        ({"messages": said(USER, Message("assistant", " "))}, "empty completion"),
        ({"messages": said(Message("user", ""), BOT)}, "empty prompt"),
        ({"messages": said(BOT)}, "empty prompt"),
        ({"messages": said(USER, Message("narrator", "x"), BOT)}, "unknown role"),
        ({"messages": "2+2? 4"}, "wrong type"),
    ],
)
def test_rows_without_anything_to_learn_have_a_reason(row, reason):
    with pytest.raises(RowProblem) as problem:
        parse_chat(row)
    assert problem.value.reason == reason


def test_a_twentieth_is_held_out_and_no_opening_stands_on_both_sides(tmp_path):
    rows = [*chats(100), *chats(100, rounds=2)]  # each opening twice
    data = load_chats([written(tmp_path / "chats.jsonl", rows)], 1000)
    openings = {split: {chat.turns[0] for chat in data.conversations(split)} for split in ("train", "validation")}
    assert not openings["train"] & openings["validation"]
    assert len(openings["validation"]) == 10 and data.audit.validation == data.audit.held_out == 20
    assert data.audit.train == 180 == sum(1 for _ in data.conversations("train"))


def test_a_validation_split_gives_up_as_many_as_are_wanted(tmp_path):
    written(tmp_path / "train.jsonl", chats(30))
    written(tmp_path / "test.jsonl", [{"messages": said(USER, Message("assistant", str(n)))} for n in range(9)])
    data = load_chats([str(tmp_path)], 4)
    assert (data.audit.train, data.audit.validation, data.audit.left_out, data.audit.held_out) == (30, 4, 5, 0)
    assert len(list(data.conversations("validation"))) == 4


def test_the_fingerprint_names_content_and_order_and_who_validates(tmp_path):
    rows = chats(60)
    first = load_chats([written(tmp_path / "a.jsonl", rows)], 1000).fingerprint
    assert load_chats([written(tmp_path / "b.jsonl", rows)], 1000).fingerprint == first
    others = {
        load_chats([written(tmp_path / "c.jsonl", rows[::-1])], 1000).fingerprint,
        load_chats([written(tmp_path / "d.jsonl", rows[:-1])], 1000).fingerprint,
        load_chats([str(tmp_path / "a.jsonl")], 1).fingerprint,
    }
    assert len(others | {first}) == 4


def test_bad_rows_of_own_files_are_refused_with_their_place_and_can_be_left_out(tmp_path):
    path = written(tmp_path / "chats.jsonl", [*chats(20), {"messages": said(USER, Message("assistant", ""))}])
    with pytest.raises(InputError, match="line 21: turn 2 .assistant. is empty(.|\n)*--drop-bad-rows"):
        load_chats([path], 1000)
    data = load_chats([path], 1000, drop_bad_rows=True)
    assert data.audit.rows == 21 and list(data.audit.dropped) == ["empty completion"]
    assert "dropped 1: empty completion" in "\n".join(data.audit.lines())


def test_unknown_roles_are_dropped_and_strictly_refused(tmp_path):
    path = written(tmp_path / "chats.jsonl", [*chats(20), {"messages": said(USER, Message("narrator", "x"), BOT)}])
    assert load_chats([path], 1000).audit.train + load_chats([path], 1000).audit.validation == 20
    with pytest.raises(InputError, match="role 'narrator'"):
        load_chats([path], 1000, strict=True)


def test_history_tools_and_end_tokens_are_read_as_in_preference_data(tmp_path):
    row = {
        "instruction": "2+2?",
        "input": "",
        "output": "4</s>",
        "history": [["hi", "hello"]],
        "tools": '[{"name": "w"}]',
    }
    found = parse_chat(row)
    assert found.turns == (Message("user", "hi"), Message("assistant", "hello"), USER, BOT)
    assert json.loads(found.tools) == [{"type": "function", "function": {"name": "w"}}]
    assert list(found.notes.reasons) == ["end tokens taken off"]


def test_a_completion_may_hold_the_whole_conversation():
    whole = "\n\nHuman: 2+2?\n\nAssistant: 4"
    assert parse_chat({"prompt": "2+2?", "completion": whole}).turns == (USER, BOT)
    assert parse_chat({"prompt": said(USER), "completion": said(BOT)}).turns == (USER, BOT)


def test_completions_that_repeat_their_prompts_lose_them(tmp_path):
    rows = [{"prompt": f"Name {n}?", "completion": f"Name {n}? It is {n}."} for n in range(30)]
    data = load_chats([written(tmp_path / "chats.jsonl", rows)], 1000)
    assert {chat.turns[1].content for chat in data.conversations("train")} <= {f"It is {n}." for n in range(30)}
    assert len(data.audit.noted["prompt taken off the completions"]) == 30


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Assistant: 4", "completion begins with its author"),
        ("4<|eot_id|><|start_header_id|>user", "a chat template's marks in the text"),
        ("\u200b", "completion without a visible character"),
    ],
)
def test_what_makes_one_doubt_a_text_is_noted_as_in_preference_data(answer, reason):
    assert list(parse_chat({"prompt": "2 + 2?", "completion": answer}).notes.reasons) == [reason]


def test_what_is_not_read_is_named_and_strictly_refused(tmp_path):
    rows = [{**row, "id": 3} for row in chats(20)]
    rows[3]["messages"][1]["weight"] = 0
    path = written(tmp_path / "chats.jsonl", rows)
    audit = load_chats([path], 1000).audit
    assert audit.unused == {"id": 20, "weight of messages": 1}
    assert f"  noted 1: content that is not used ({path}, line 4)" in audit.lines()
    with pytest.raises(InputError, match="holds weight of messages, which is not used(.|\n)*leave out --strict"):
        load_chats([path], 1000, strict=True)


FINGERPRINTS = {
    "messages": "336263c95d5c42a5265fd043a2ae451d097024e52845ce8388fd05955d8357cf",
    "alpaca": "cc332567391286a6f8e3b6071292f82337f71ccfbf05db79525c7af3ce691ecb",
    "prompt": "4292ca7d402ce1d126eef2b8026cc2d3d524eebf08425b60d0833d54b3ecbd7b",
}


@pytest.mark.parametrize("form", FINGERPRINTS)
def test_forms_that_were_read_right_have_the_fingerprints_that_they_had(tmp_path, form):
    """SHA-256 as of before the reader knew transcripts, tools and end tokens: tunings are named by it."""
    rows = {
        "messages": lambda n: {"messages": said(*_two_rounds(n)), "prompt": f"Q {n}?", "prompt_id": str(n)},
        "alpaca": lambda n: {"instruction": f"Add {n}.", "input": "", "output": f"out {n}", "system": "S"},
        "prompt": lambda n: {"prompt": f"Q {n}", "completion": f" c {n}\n"},
    }
    path = written(tmp_path / "chats.jsonl", [rows[form](n) for n in range(40)])
    assert load_chats([path], 100).fingerprint == FINGERPRINTS[form]


def _two_rounds(n):
    answers = Message("assistant", f"A {n}."), Message("assistant", "So.")
    return Message("user", f"Q {n}?"), answers[0], Message("user", "And?"), answers[1]


def test_one_opening_alone_cannot_be_split(tmp_path):
    with pytest.raises(InputError, match="0 to validate on; both are needed"):
        load_chats([written(tmp_path / "chats.jsonl", chats(1) * 5)], 1000)


def test_tinys_own_conversations_are_there_without_a_file():
    data = load_chats(["tiny"], 200)
    assert data.audit.train + data.audit.validation == 16_384 and 200 <= data.audit.validation < 1000
