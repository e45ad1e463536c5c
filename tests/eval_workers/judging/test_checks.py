"""What a judge gives an answer that only addresses it, and how often the order of the answers decides."""

from functools import partial

import pytest

from eval_workers.arena.games import by_label
from eval_workers.judging.checks import NULL_ANSWER, judge_checks, spread
from eval_workers.judging.costs import CapReached
from eval_workers.judging.judges import ProgrammaticJudge
from eval_workers.judging.verdicts import JudgeFailed

QUESTIONS, THEIRS = ["q1", "q2", "q3", "q4"], ["b1", "b2", "b3", "b4"]


class Scripted:
    """A judge that says what `verdict` says of a question and the answers in their order."""

    name, in_this_process = "scripted", True

    def __init__(self, verdict):
        self.compare_as_shown = self.compare = verdict


def test_rates_are_those_worked_by_hand():
    """q1: first shown wins (flips); q2: ours wins both ways; q3: a tie one way, ours the other (flips); q4: equal
    texts, which nobody is asked about. The null answer wins where it is shown first, and ties on q2 when second:
    the means are 0.5, 0.75, 0.5, 0.5, together 0.5625."""
    ours = ["a1", "a2", "a3", "b4"]

    def verdict(question, first, second):
        if NULL_ANSWER in (first, second):
            return 1.0 if first == NULL_ANSWER else 0.5 if question == "q2" else 1.0
        assert question != "q4"
        answers = {"q1": (1.0, 1.0), "q2": (1.0, 0.0), "q3": (0.5, 0.2)}[question]
        return answers[0] if first.startswith("a") else answers[1]

    found = judge_checks(Scripted(verdict), QUESTIONS, ours, THEIRS, 100)
    assert found == {"null_win_rate": pytest.approx(2.25 / 4), "order_flip_rate": pytest.approx(2 / 3)}
    assert judge_checks(Scripted(verdict), QUESTIONS, ours, THEIRS, 0) == {}


def test_pairs_the_judge_cannot_decide_count_for_nothing_and_a_cap_leaves_the_win_rate_alone():
    def verdict(question, first, second):
        if question == "q1":
            raise JudgeFailed("refused to judge")
        if question == "q4":
            raise CapReached("the cap of 1 USD is reached")
        return 0.0 if first == NULL_ANSWER else 1.0

    found = judge_checks(Scripted(verdict), QUESTIONS[:3], ["a", "a", "a"], THEIRS[:3], 100)
    assert found == {"null_win_rate": 0.0, "order_flip_rate": 1.0}
    assert judge_checks(Scripted(verdict), QUESTIONS, ["a"] * 4, THEIRS, 100) == {}


def test_labels_are_checked_as_labels():
    class Labels(ProgrammaticJudge):
        def compare(self, question, answer_a, answer_b):
            return 0.0 if NULL_ANSWER in (answer_a, answer_b) else 1.0

    judge = Labels()
    found = judge_checks(judge, QUESTIONS, ["a"] * 4, THEIRS, 100, partial(by_label, judge))
    assert found == {"null_win_rate": 0.5, "order_flip_rate": 1.0}


def test_pairs_are_spread_over_all():
    assert spread(10, 4) == [0, 2, 5, 7] and spread(3, 10) == [0, 1, 2] and spread(3, 0) == []
