"""Columns that repeat the prompt, go on with it, or hold all of it."""

import json

import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.chat.problems import RowProblem
from mmpo_train.data.rows import parse_row

USER = Message("user", "2 + 2?")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def row(spell, prompt=None):
    """A pair whose chosen and rejected are what `spell` makes of an answer."""
    given = {} if prompt is None else {"prompt": prompt}
    return parse_row({**given, "chosen": spell("4"), "rejected": spell("5")})


def hh(answer):
    return f"\n\nHuman: 2 + 2?\n\nAssistant: {answer}"


def chatml(answer):
    return f"<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


def written(answer):
    return json.dumps([user("2 + 2?"), assistant(answer)])


@pytest.mark.parametrize("spell", [hh, chatml, written, lambda answer: f"Human: 2 + 2?\n\nAssistant: {answer}"])
@pytest.mark.parametrize("prompt", [None, "2 + 2?", "\n\nHuman: 2 + 2?\n\nAssistant:", [user("2 + 2?")]])
def test_a_transcript_holds_the_prompt_whether_there_is_one_beside_it_or_not(spell, prompt):
    found = row(spell, prompt)
    assert (found.prompt, found.completions) == ((USER,), ("4", "5"))


def test_the_first_question_of_a_longer_transcript_may_stand_beside_it():
    found = row(lambda answer: f"\n\nHuman: hi\n\nAssistant: hello{hh(answer)}", "hi")
    assert [turn.content for turn in found.prompt] == ["hi", "hello", "2 + 2?"]


def test_a_dialogue_that_somebody_asked_for_is_an_answer_and_noted():
    found = row(lambda answer: f"User: hi\nAssistant: {answer}", "Write a dialogue.")
    assert found.completions == ("User: hi\nAssistant: 4", "User: hi\nAssistant: 5")
    assert "completion reads like a transcript" in found.notes.reasons


def test_a_rendered_chat_that_the_prompt_is_not_in_is_no_answer():
    with pytest.raises(RowProblem) as caught:
        row(chatml, "Say hello.")
    assert caught.value.reason == "prompts of chosen and rejected differ"


def test_turns_that_begin_with_the_assistant_go_on_where_the_prompt_ended():
    found = row(lambda answer: [assistant("Four?"), user("sure?"), assistant(answer)], [user("2 + 2?")])
    assert [turn.content for turn in found.prompt] == ["2 + 2?", "Four?", "sure?"]
    assert found.completions == ("4", "5")


def test_turns_that_part_before_the_last_are_refused_where_they_part():
    value = {"prompt": [user("2 + 2?")]}
    for name, first in (("chosen", "Four?"), ("rejected", "Five?")):
        value[name] = [assistant(first), user("sure?"), assistant(name)]
    with pytest.raises(RowProblem, match="turn 2 is assistant 'Four\\?' and assistant 'Five\\?'"):
        parse_row(value)


def test_a_completion_brings_no_end_token_of_its_own():
    found = row(lambda answer: f"{answer}<|im_end|>\n", "2 + 2?")
    assert found.completions == ("4", "5") and "end tokens taken off" in found.notes.reasons
    found = row(lambda answer: [assistant(f"{answer}</s>")], "2 + 2?")
    assert found.completions == ("4", "5")
    found = row(str, [user("Hi"), assistant("Hello!</s>"), user("2 + 2?")])
    assert [turn.content for turn in found.prompt] == ["Hi", "Hello!", "2 + 2?"]


def test_an_end_token_alone_is_an_empty_completion():
    with pytest.raises(RowProblem) as caught:
        row(lambda answer: "</s>", "2 + 2?")
    assert caught.value.reason == "empty completion"


def test_ranked_answers_are_read_as_completions_are():
    answers = [{"answer": spell(str(n)), "rank": n} for n, spell in enumerate((hh, chatml, written, str), 1)]
    assert parse_row({"prompt": "2 + 2?", "answers": answers}).completions == ("1", "2", "3", "4")
    inside_out = {name: [answer[name] for answer in answers] for name in ("answer", "rank")}
    assert parse_row({"prompt": "2 + 2?", "answers": inside_out}).completions == ("1", "2", "3", "4")
