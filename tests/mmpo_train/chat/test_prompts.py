"""The columns that make a prompt, and what is said of those that do not."""

import pytest

from mmpo_train.chat.columns import columns_read, layout_of
from mmpo_train.chat.messages import Message
from mmpo_train.chat.problems import Notes, RowProblem
from mmpo_train.chat.prompts import given_prompt, note_unread, with_system

FIRST, ANSWER, NOW = Message("user", "hi"), Message("assistant", "hello"), Message("user", "2 + 2?")


def prompt(row):
    return given_prompt(row, Notes())


def unread(row):
    """What is noted of a row's columns."""
    notes = Notes()
    turns = given_prompt(row, notes) or ()
    note_unread(row, layout_of(tuple(row), columns_read(row)), turns, (), notes)
    return notes


@pytest.mark.parametrize("name", ["prompt", "instruction", "question"])
@pytest.mark.parametrize("history", [[["hi", "hello"]], '[["hi", "hello"]]'])
def test_history_is_earlier_turns(name, history):
    assert prompt({name: "2 + 2?", "history": history}) == (FIRST, ANSWER, NOW)


@pytest.mark.parametrize("history", [None, [], ""])
def test_no_history_is_none(history):
    assert prompt({"instruction": "2 + 2?", "history": history}) == (NOW,)


@pytest.mark.parametrize("history", [["hi", "hello"], [["hi"]], [["hi", None]], 3, "hello"])
def test_history_that_is_no_pairs_is_refused(history):
    with pytest.raises(RowProblem, match="history") as caught:
        prompt({"instruction": "2 + 2?", "history": history})
    assert caught.value.reason == "wrong type"


def test_history_beside_no_prompt_is_not_lost_unseen():
    assert "content that is not used" in unread({"history": [["hi", "hello"]]}).reasons


def test_a_prompt_may_spell_messages_or_a_rendered_chat():
    assert prompt({"prompt": '[{"role": "user", "content": "2 + 2?"}]'}) == (NOW,)
    assert prompt({"prompt": "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"}) == (NOW,)
    assert prompt({"conversations": '[{"from": "human", "value": "2 + 2?"}]'}) == (NOW,)
    with pytest.raises(RowProblem, match="a turn of 'narrator'"):
        prompt({"prompt": "<|im_start|>narrator\nOnce.<|im_end|>\n"})


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_the_system_message_has_several_columns(name):
    assert with_system({name: "Be brief."}, (NOW,), Notes()) == (Message("system", "Be brief."), NOW)


def test_a_system_column_that_another_system_message_replaces_is_noted():
    turns, notes = (Message("system", "Be kind."), NOW), Notes()
    assert with_system({"system": "Be kind. "}, turns, notes) == turns and notes == Notes()
    assert with_system({"system": "Be brief."}, turns, notes) == turns
    assert notes.unused == ["system"] and "content that is not used" in notes.reasons


@pytest.mark.parametrize(
    "name",
    [
        *(
            "reasoning",
            "thinking",
            "chosen_thinking",
            "chain_of_thought_cot",
            "context",
            "documents",
            "weight",
            "labels",
        ),
        *(
            "dialogue_history",
            "toolCalls",
            "input",
            "question",
            "persona",
            "margin",
            "conversation",
            "messages",
            "few_shot_examples",
            "preference",
        ),
    ],
)
def test_columns_that_may_change_what_is_meant_are_noted(name):
    notes = unread({"prompt": "2 + 2?", name: "and 3"})
    assert notes.unused == [name] and "content that is not used" in notes.reasons


@pytest.mark.parametrize("name", ["id", "prompt_id", "source", "score", "model", "num_turns", "context_length"])
def test_columns_about_the_row_are_named(name):
    assert unread({"prompt": "2 + 2?", name: "x"}) == Notes(unused=[name])


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_empty_columns_are_nothing(value):
    assert unread({"prompt": "2 + 2?", "context": value, "images": value, "source": value}) == Notes()


def test_a_column_that_repeats_what_is_said_loses_nothing():
    assert unread({"prompt": "Add: 2 + 2?", "question": "2 + 2?"}) == Notes(unused=["question (repeated)"])
    again = [{"role": "user", "content": "2 + 2?"}]
    assert unread({"prompt": "2 + 2?", "messages": again}) == Notes(unused=["messages (repeated)"])
    assert "messages" in unread({"prompt": "3 + 3?", "messages": again}).reasons["content that is not used"]


@pytest.mark.parametrize(
    "name", ["image", "images", "image_url", "Images", "audio", "audios", "video_path", "pixel_values"]
)
def test_pictures_sound_and_films_are_refused(name):
    with pytest.raises(RowProblem, match=f"the row has {name}, and only text") as caught:
        unread({"prompt": "What is it?", name: ["a"]})
    assert caught.value.severity == "malformed"
