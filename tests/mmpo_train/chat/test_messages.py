"""Messages as people's files write them: roles, parts, lists turned inside out, calls of tools."""

import json

import pytest

from mmpo_train.chat.messages import Message, ToolMessage, messages_of, tools_of
from mmpo_train.chat.problems import Notes, RowProblem
from mmpo_train.chat.texts import parse_json

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}


def read(value):
    return messages_of("chosen", value, Notes())


def problem(value):
    with pytest.raises(RowProblem) as caught:
        read(value)
    return caught.value


def calls(*found):
    return ToolMessage("assistant", "", json.dumps({"tool_calls": list(found)}))


def test_an_object_of_lists_is_a_list_of_objects():
    """`datasets` before version 4 wrote a Sequence of a dict so."""
    value = {"role": ["user", "assistant"], "content": ["2 + 2?", "4"]}
    assert read(value) == (Message("user", "2 + 2?"), Message("assistant", "4"))
    assert read({"from": ["human"], "value": ["2 + 2?"]}) == (Message("user", "2 + 2?"),)


def test_an_object_of_lists_that_do_not_match_is_refused_by_name():
    found = problem({"role": ["user", "assistant"], "content": ["2 + 2?"]})
    assert found.reason == "wrong type" and "chosen is an object whose lists are not equally long" in found.detail
    assert problem({"role": ["user"], "content": "2 + 2?"}).reason == "wrong type"


@pytest.mark.parametrize(
    ("written", "role"), [("developer", "system"), ("Human", "user"), ("model", "assistant"), ("observation", "tool")]
)
def test_roles_have_several_spellings(written, role):
    assert read([{"role": written, "content": "a"}]) == (Message(role, "a"),)


def test_parts_that_are_all_text_are_one_text():
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]
    assert read([{"role": "user", "content": parts}]) == (Message("user", "2 + 2?"),)


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video"])
def test_parts_that_are_no_text_are_refused(kind):
    found = problem([{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "What is it?"}]}])
    assert (found.reason, found.severity) == ("not text", "malformed") and f"'{kind}'" in found.detail


def test_pictures_beside_the_text_of_a_message_are_refused():
    assert problem([{"role": "user", "content": "What is it?", "images": ["a.png"]}]).reason == "not text"
    assert read([{"role": "user", "content": "What is it?", "images": None}]) == (Message("user", "What is it?"),)


def test_keys_that_are_not_read_are_named_and_those_of_weight_are_noted():
    notes = Notes()
    messages_of("chosen", [{"role": "assistant", "content": "4", "reasoning_content": "2 twice", "id": "x"}], notes)
    assert notes.unused == ["reasoning_content of messages", "id of messages"]
    assert list(notes.reasons) == ["content that is not used"]
    notes = Notes()
    messages_of("chosen", [{"role": "assistant", "content": "4", "reasoning_content": "", "id": None}], notes)
    assert notes == Notes()


def test_a_key_of_a_message_that_is_given_twice_is_noted():
    notes = Notes()
    turns = messages_of("chosen", parse_json('[{"role": "assistant", "content": "4", "content": "5"}]'), notes)
    assert turns == (Message("assistant", "5"),) and "keys given twice" in notes.reasons


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL["function"]]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": '{"city": "Ulm"}'}]},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm"}}'},
    ],
    ids=["transformers", "bare", "text", "OpenAI", "OpenAI's first", "LLaMA-Factory"],
)  # fmt: skip
def test_calls_of_tools_have_one_form(message):
    assert read([message]) == (calls(CALL),)
    assert read([message])[0].for_template() == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_a_call_keeps_its_id_and_what_is_said_beside_it():
    [turn] = read([{"role": "assistant", "content": "Let me look.", "tool_calls": [{"id": "call12345", **CALL}]}])
    assert turn.content == "Let me look." and turn.for_template()["tool_calls"][0]["id"] == "call12345"


def test_a_tool_answers_in_text_or_in_json_and_keeps_its_name():
    answer = {"role": "tool", "content": {"sky": "grün"}, "name": "weather", "tool_call_id": "call12345"}
    [turn] = read([answer])
    assert turn.for_template() == {**answer, "content": '{"sky": "grün"}'}
    assert read([{"from": "observation", "value": "rain"}]) == (Message("tool", "rain"),)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "is the user's and calls tools"),
        ({"role": "assistant", "content": "", "tool_calls": ["weather"]}, "should call tools by name and arguments"),
        ({"role": "assistant", "tool_calls": [{"name": "w", "arguments": "{"}]}, "holds broken JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "w", "arguments": [1]}]}, "should be an object"),
        ({"role": "function_call", "content": "call the weather"}, "holds broken JSON"),
        ({"role": "assistant", "content": None}, "the text of chosen[1] should be text, found None"),
    ],
)
def test_calls_that_cannot_be_read_are_refused(message, said):
    found = problem([message])
    assert found.severity == "malformed" and said in found.detail


@pytest.mark.parametrize(
    "row",
    [
        {"tools": [CALL["function"]]},
        {"tools": json.dumps([{"type": "function", "function": CALL["function"]}])},
        {"tools": [json.dumps(CALL["function"])]},
        {"tools": CALL["function"]},
        {"functions": [CALL["function"]]},
    ],
)
def test_tools_have_one_form(row):
    assert json.loads(tools_of(row)) == [{"type": "function", "function": CALL["function"]}]


@pytest.mark.parametrize("value", [None, [], "", "[]", "  "])
def test_no_tools_are_none_however_they_are_written(value):
    assert tools_of({"tools": value}) == ""


def test_tools_without_a_name_are_refused():
    with pytest.raises(RowProblem, match=r"tools\[2\] should be a tool with a name"):
        tools_of({"tools": [CALL, {"description": "the weather"}]})
