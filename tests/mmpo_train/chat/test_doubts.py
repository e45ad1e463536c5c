"""Pairs that can be read and make one doubt."""

import pytest

from mmpo_train.data.rows import parse_row

ALIKE, BLANK = "nothing visible to tell chosen from rejected", "completion without a visible character"


def reasons(**columns):
    return list(parse_row({"prompt": "2 + 2?", "chosen": "4", "rejected": "5", **columns}).notes.reasons)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("4", "4\u200b"), ("\ufeff4", "4"), ("4 ", "4\n"), ("a\u00adb", "ab"), ("x" * 300 + "\u200d", "x" * 300)],
)
def test_differences_that_nobody_sees_are_noted(chosen, rejected):
    assert reasons(chosen=chosen, rejected=rejected) == [ALIKE]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("4", "5"), ("if a:\n  b", "if a:\n    b"), ("É", "E"), ("x" * 300 + "4", "x" * 300 + "5"), ("4", "44")],
)
def test_differences_that_can_be_seen_are_not(chosen, rejected):
    assert reasons(chosen=chosen, rejected=rejected) == []


@pytest.mark.parametrize("blank", ["\u200b", "\u2060 \ufeff", "\u3164", "\u200b" * 300])
def test_a_completion_that_nobody_sees_is_noted(blank):
    assert reasons(chosen=blank) == [BLANK] and reasons(rejected=blank) == [BLANK]


@pytest.mark.parametrize(
    ("columns", "noted"),
    [
        ({"score_chosen": 8.5, "score_rejected": 8.5}, "chosen and rejected rated alike"),
        ({"chosen-rating": 3, "rejected-rating": 5.0}, "chosen rated below rejected"),
        ({"chosen_reward": -2.0, "rejected_reward": -3.0}, None),
        ({"score_chosen": 8.5, "score_rejected": None}, None),
        ({"chosen_tokens": 3, "rejected_tokens": 5}, None),
        ({"rating": [9.0, 9.0]}, "chosen and rejected rated alike"),
        ({"rating": [5.0, 9.0]}, None),
        ({"chosen_rating": "3", "rejected_rating": "5"}, "chosen rated below rejected"),
        ({"chosen_rating": "good", "rejected_rating": "5"}, None),
        ({"score_chosen": True, "score_rejected": True}, None),
    ],
)
def test_ratings_that_tie_or_are_reversed_are_noted(columns, noted):
    assert reasons(**columns) == ([noted] if noted else [])


MARKS, AUTHOR, PLACE = (
    "a chat template's marks in the text",
    "completion begins with its author",
    "a place for a picture or sound",
)


@pytest.mark.parametrize(
    ("columns", "noted"),
    [
        ({"chosen": "4<|im_end|>\n<|im_start|>user\nthanks"}, MARKS),
        ({"chosen": "4<｜tool▁calls▁begin｜>"}, MARKS),
        ({"rejected": "5 [/INST] 6"}, MARKS),
        ({"prompt": "<|start|>user<|message|>2 + 2?"}, MARKS),
        ({"prompt": "He says: 2 + 2?\n\n### Response:\n"}, MARKS),
        ({"prompt": "GPT4 Correct User: 2 + 2? GPT4 Correct Assistant: "}, MARKS),
        ({"prompt": "Who is the assistant?"}, None),
        ({"prompt": "What is x |> f <| y?", "chosen": "a <b> c"}, None),
        ({"chosen": "Assistant: 4"}, AUTHOR),
        ({"rejected": "\n\nAssistant: 5"}, AUTHOR),
        ({"rejected": "### Response:\n5"}, AUTHOR),
        ({"chosen": "Bots say: 4", "rejected": "Responses: 5"}, None),
        ({"prompt": "<image>\nWhat is it?"}, PLACE),
        ({"prompt": "What is <image> in HTML?"}, None),
    ],
)
def test_what_chat_templates_have_left_in_the_texts_is_noted(columns, noted):
    assert reasons(**columns) == ([noted] if noted else [])
