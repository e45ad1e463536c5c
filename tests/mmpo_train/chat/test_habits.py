"""What the rows of a file do together."""

import pytest

from mmpo_train.chat.habits import Habits, habits_of, implied_prompt
from mmpo_train.chat.problems import Notes
from mmpo_train.data.rows import parse_row

REPEATS, IMPLIES = Habits(repeats_prompt=True), Habits(implies_prompt=True)


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


FULL = [pair(f"Name {n}?", f"Name {n}? It is a.", f"Name {n}?\nIt is b.") for n in range(3)]
ANSWERS = [pair(f"Name {n}?", "It is a.", "It is b.") for n in range(3)]


def test_more_than_half_makes_a_habit():
    assert habits_of(FULL) == REPEATS
    assert habits_of([*FULL, *ANSWERS[:2]]) == REPEATS
    assert habits_of([*FULL, *ANSWERS]) == Habits()
    assert habits_of([]) == habits_of(["text", {"chosen": [1]}]) == Habits()


def test_a_prompt_is_taken_off_where_that_is_a_habit_and_noted_where_it_is_not():
    row = parse_row(FULL[0], habits=REPEATS)
    assert row.completions == ("It is a.", "It is b.")
    assert list(row.notes.reasons) == ["prompt taken off the completions"]
    row = parse_row(pair("Say it in French.", "Say it in French. Oui.", "Say it in French. Non."))
    assert row.completions[0] == "Say it in French. Oui."
    assert list(row.notes.reasons) == ["completion repeats the prompt"]


def test_the_next_word_may_follow_a_question_at_once_and_a_template_stand_before_it():
    assert habits_of([pair(f"Name {n}?", f"Name {n}?It is a.", f"Name {n}?So.") for n in range(3)]) == REPEATS
    assert habits_of([pair("a", "an apple", "at last") for n in range(3)]) == Habits()
    for said in ("Q: Who is it?\nA: He.", "<q>Who is it?</q> He."):
        assert "completion repeats the prompt" in parse_row(pair("Who is it?", said, "She.")).notes.reasons


def test_greetings_are_no_prompts_repeated():
    rows = [pair("Hello!", "Hello! How can I help?", "Hello! What?"), *ANSWERS]
    assert habits_of(rows) == Habits()
    assert parse_row(rows[0]).notes == Notes()


def test_in_instruction_tuning_one_completion_shows_the_habit():
    rows = [{"prompt": f"Name {n}?", "completion": f"Name {n}? It is a."} for n in range(3)]
    assert habits_of(rows, ("completion", "output")) == REPEATS


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        (
            "Which sky is blue or black? Blue it is.",
            "Which sky is blue or black? Black.",
            "Which sky is blue or black?",
        ),
        ("What is it?\nA cat.", "What is it?\nA dog.", "What is it?\nA"),
        ("Yes.", "No.", ""),
        ("Yesterday", "Yes", ""),
    ],
)
def test_an_implied_prompt_is_the_whole_words_that_both_begin_with(chosen, rejected, prompt):
    assert implied_prompt({"chosen": chosen, "rejected": rejected, "id": 3}) == prompt


def test_a_prompt_is_implied_only_where_nothing_else_can_be_it():
    alike = {"chosen": "I think a.", "rejected": "I think b."}
    assert implied_prompt(alike) == "I think"
    assert implied_prompt({**alike, "prompt": None}) == ""
    assert implied_prompt({**alike, "task": "Say what you think."}) == ""
    assert implied_prompt({name: f"\n\nHuman: hi\n\nAssistant: {name}" for name in alike}) == ""


def test_trls_implicit_prompt_is_read_where_it_is_the_habit_of_a_file():
    rows = [{"chosen": f"Sky {n} is blue.", "rejected": f"Sky {n} is green."} for n in range(3)]
    assert habits_of(rows) == IMPLIES
    row = parse_row(rows[1], habits=IMPLIES)
    assert (row.prompt[0].content, row.completions) == ("Sky 1 is", ("blue.", "green."))
    assert list(row.notes.reasons) == ["prompt read as what chosen and rejected have in common"]
