"""The rows of `tiny`: preference pairs, ranked answers, and the demonstrations that its model is tuned on.

Everything is generated from seeds: no network, no downloaded file. Demonstrations are as uneven as people's, many of
them wrong or sloppy, so that there is something left to learn from preferences.
"""

import hashlib
from collections.abc import Iterator
from random import Random
from typing import Any

from mmpo_train.errors import InputError
from mmpo_train.tiny.recipe import DEMONSTRATED, RECIPE, REJECTED
from mmpo_train.tiny.tasks import Question, draw_question, judge, write_answer, wrong_answer

# Answers of falling quality: (is it wrong?, how may it be put?). Neighbours may be equally good, that is, tie.
RANKED = (
    (False, ("good",)),
    (False, ("opened", "trailing")),
    (False, ("bare", "hurried")),
    (False, ("bare", "hurried", "mumbled")),
    (True, ("good",)),
    (True, ("good", "opened", "trailing")),
    (True, ("bare", "hurried", "mumbled")),
)
# Of the last five, how many are there?: share.
NEGATIVES_BELOW_SECOND = {5: 0.7, 4: 0.2, 3: 0.1}


def preference_examples(split: str) -> list[dict[str, str]]:
    """Rows {prompt, chosen, rejected} of `split`, 'train' or 'validation'; no prompt is in both. Chosen is right and
    well put. Rejected is wrong, or right but sloppy; on average it is as long."""
    rows = []
    for question, random in _distinct_questions(split):
        chosen = write_answer(question, question.solution.answer, "good", random)
        rejected = _answer_from(REJECTED, question, random)
        rows.append({"prompt": question.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def ranked_examples(split: str) -> list[dict[str, Any]]:
    """Rows {prompt, answers: [{answer, rank}, ...]}, best first, with 5 to 7 answers to the prompts of `split`.

    One answer is perfect and of rank 1, one is nearly so and of rank 2 (what Nectar's users leave out). Answers
    that the judge holds equal share a rank, and the next rank follows without a gap.
    """
    rows = []
    for question, random in _distinct_questions(split):
        quality = {answer: judge(question.prompt, answer) for answer in _graded_answers(question, random)}
        levels = sorted(set(quality.values()), reverse=True)
        best_first = sorted(quality, key=quality.__getitem__, reverse=True)
        ranked = [{"answer": answer, "rank": levels.index(quality[answer]) + 1} for answer in best_first]
        rows.append({"prompt": question.prompt, "answers": ranked})
    return rows


def _graded_answers(question: Question, random: Random) -> list[str]:
    [count] = random.choices(list(NEGATIVES_BELOW_SECOND), list(NEGATIVES_BELOW_SECOND.values()))
    answers: dict[str, None] = {}
    for place in (0, 1, *sorted(random.sample(range(2, len(RANKED)), count))):
        wrong, styles = RANKED[place]
        size = len(answers)
        while len(answers) == size:  # until it is another answer than those before
            answer = wrong_answer(question, random) if wrong else question.solution.answer
            answers[write_answer(question, answer, random.choice(styles), random)] = None
    return list(answers)


def instruction_examples() -> list[dict[str, str]]:
    """Rows {prompt, completion}: the uneven demonstrations the model is tuned on, none with a validation prompt."""
    rows = []
    random = Random(f"{RECIPE.seed} demonstrations")
    questions = _questions("train", random)
    for _ in range(RECIPE.demonstrations):
        question = next(questions)
        completion = _answer_from(DEMONSTRATED, question, random)
        rows.append({"prompt": question.prompt, "completion": completion})
    return rows


def _answer_from(shares: dict[tuple[bool, str], float], question: Question, random: Random) -> str:
    [(wrong, style)] = random.choices(list(shares), list(shares.values()))
    answer = wrong_answer(question, random) if wrong else question.solution.answer
    return write_answer(question, answer, style, random)


def _questions(split: str, random: Random) -> Iterator[Question]:
    """Endless questions of one split. The prompt's own digest decides its split: one in four is for validation."""
    if split not in ("train", "validation"):
        raise InputError(f"split '{split}' is not 'train' or 'validation'")
    while True:
        question = draw_question(random)
        is_validation = hashlib.sha256(question.prompt.encode()).digest()[0] % 4 == 0
        if is_validation == (split == "validation"):
            yield question


def _distinct_questions(split: str) -> Iterator[tuple[Question, Random]]:
    """The split's questions, each prompt once, each with its own source of randomness for what is said about it."""
    count = RECIPE.train_prompts if split == "train" else RECIPE.validation_prompts
    questions = _questions(split, Random(f"{RECIPE.seed} {split}"))
    seen: set[str] = set()
    while len(seen) < count:
        question = next(questions)
        if question.prompt not in seen:
            seen.add(question.prompt)
            yield question, Random(f"{RECIPE.seed} {question.prompt}")
