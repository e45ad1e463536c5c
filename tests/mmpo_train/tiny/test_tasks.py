"""The world of `tiny`: questions are read back, and any answer gets its mark."""

from random import Random

import pytest

from mmpo_train.errors import InputError
from mmpo_train.tiny import tasks


@pytest.mark.parametrize(
    ("prompt", "completion", "mark"),
    [
        ("What is the capital of Canada?", "The capital of Canada is Ottawa.", 1.0),
        ("Hello! What is the capital of Canada?", "It is Toronto.", 0.4),
        # Two cities named: whichever is meant, the question is not answered.
        ("What is the capital of Canada?", "It is Ottawa or Toronto.", 0.4),
        ("What is the capital of Canada?", "ottawa", 0.8),
        ("What is the capital of Canada?", "Ottawa.", 0.9),
        ("What is the capital of Canada?", "It is Ottawa. I guess.", 0.9),
        ("What is the capital of Canada?", "It is Ottawa. Yes, it is Ottawa.", 0.8),
        ("What is the capital of Canada?", "", 0.0),
        ("Which day comes after Sunday?", "Monday comes after Sunday.", 1.0),
        ("Which month comes before January?", "It is December.", 1.0),
        ("Add 5 and 1.", "5 plus 1 is 6.", 1.0),
        # The typical mistake, 5, is also a number of the question.
        ("Add 5 and 1.", "5 plus 1 is 5.", 0.4),
        ("Of 12 and 9, which is bigger?", "12 is bigger.", 1.0),
        ("Count the words: lamp, river, stone.", "There are three words.", 1.0),
        ("Tell me the last word of lamp, river.", "The last word is river.", 1.0),
        ("Repeat after me: lamp river.", "You said lamp river.", 1.0),
        ("Repeat after me: lamp river.", "You said lamp river river.", 0.4),
    ],
)
def test_judge_marks_any_answer(prompt, completion, mark):
    assert tasks.judge(prompt, completion) == mark


def test_judge_refuses_questions_it_cannot_verify():
    with pytest.raises(InputError, match="knows no such question"):
        tasks.judge("What is the meaning of life?", "It is 42.")


def test_prompt_is_read_back_as_the_question_it_was():
    random = Random(0)
    for _ in range(1000):
        question = tasks.draw_question(random)
        assert tasks.solve(question.prompt) == question.solution
