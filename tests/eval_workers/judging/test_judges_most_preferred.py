"""One answer of several to each of many questions."""

import pytest

from eval_workers.judging import judges
from eval_workers.judging.judges import JudgeCount, judge_all, most_preferred, open_judge
from eval_workers.judging.verdicts import TIE, JudgeFailed
from tests.support.standins import judge_server
from tests.support.standins.judge_server import Fault
from tests.support.standins.judges import LONG, QUICK, SHORT, Scripted


def test_the_winner_so_far_meets_the_next_answer():
    judge = Scripted()
    assert most_preferred(judge, "?", ["3", "1", "5", "4", "2"]) == 2
    assert judge.asked == [("3", "1"), ("3", "5"), ("5", "4"), ("5", "2")]
    assert most_preferred(judge, "?", ["7"]) == 0 and len(judge.asked) == 4


def test_a_tie_keeps_the_winner_so_far():
    assert most_preferred(Scripted(), "?", ["2", "02", "1", "002"]) == 0


def test_texts_met_before_need_no_comparison(server):
    judge = Scripted()
    assert most_preferred(judge, "?", ["3", "3", "5", "3", "5"]) == 2
    assert judge.asked == [("3", "5")]
    assert open_judge(server.spec()).compare("?", "same", "same") == TIE and not server.requests


def test_a_failed_comparison_alone_is_repeated():
    judge = Scripted(failures=[False, True])
    assert most_preferred(judge, "?", ["1", "2", "3"]) == 2
    assert judge.asked == [("1", "2"), ("2", "3"), ("2", "3")]
    with pytest.raises(JudgeFailed):
        most_preferred(Scripted(failures=[True, False, True]), "?", ["1", "2", "3"])


def test_questions_the_judge_fails_are_dropped_and_counted_and_the_others_judged(server):
    """Question 3 is refused always, question 5 only the first time, question 7 gets a wrong label always."""
    met = set()

    def fault_of(request):
        question = request.shown("question")
        again, _ = question in met, met.add(question)
        return {"3": judge_server.REFUSED, "7": judge_server.WRONG_LABEL}.get(
            question, judge_server.REFUSED if question == "5" and not again else Fault()
        )

    server.fault_of = fault_of
    winners, count = judge_all(
        open_judge(server.spec(), limits=QUICK),
        [str(number) for number in range(10)],
        [["a", "ccc", "bb"] if number % 2 else ["ccc", "a", "bb"] for number in range(10)],
    )
    assert winners == [0, 1, 0, None, 0, 1, 0, None, 0, 1]
    assert count == JudgeCount(judged=8, dropped=2, reasons={"refused to judge": 1, "no single verdict": 1})


def test_no_more_than_so_many_questions_at_once(server, monkeypatch):
    monkeypatch.setattr(judges, "CONCURRENCY", 4)
    server.fault_of = lambda request: Fault(delay_seconds=0.1)
    judge_all(open_judge(server.spec()), [str(n) for n in range(12)], [[SHORT, LONG]] * 12)
    assert server.most_at_once == 4
