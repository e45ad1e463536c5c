"""The pairs that a judge over real HTTP compared, with what each call cost."""

from __future__ import annotations

import pytest

from eval_workers.judging.pairs import pair_rows, read_pairs, write_pairs
from eval_workers.judging.preference_judges import open_preference_judge
from tests.support.standins.judge_server import Fault, JudgeServer


@pytest.mark.parametrize("kind", ["openai", "weighted"])
def test_a_pair_has_the_calls_made_for_it_and_a_kept_verdict_has_none(kind, tmp_path, monkeypatch):
    """100 and 20 tokens at 1 and 5 USD per million; a reply that says nothing readable is paid for too."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    questions, ours, theirs = ["q0", "q1", "q2"], ["a", "same", "b"], ["c", "same", "d"]
    with JudgeServer(
        usage=lambda request, text: (100, 20), probabilities=lambda request: {"m": 0.8, "M": 0.2}
    ) as server:
        server.text = (lambda request: "m") if kind == "weighted" else None
        spec = server.spec().replace("openai:", f"{kind}:")
        judge = open_preference_judge(f"{spec},price=1/5", cache=tmp_path / "verdicts.sqlite")
        for tokens in ((100, 0, 100), (0, 0, 0)):
            won = [judge.compare(*texts) for texts in zip(questions, ours, theirs, strict=True)]
            rows = pair_rows(judge, questions, ours, theirs, won, judge.price)
            write_pairs(tmp_path, rows)
            assert read_pairs(tmp_path) == rows and [row["preference"] for row in rows] == won
            assert tuple(row["prompt_tokens"] for row in rows) == tokens
            assert [len(row["replies"]) for row in rows] == [int(bool(one)) for one in tokens]
            assert [row["usd"] for row in rows] == pytest.approx([0.0002 * bool(one) for one in tokens])
        if kind == "openai":
            server.faults = [Fault(text="I cannot say.")]
            judge.compare("q3", "a", "c")
            [row] = pair_rows(judge, ["q3"], ["a"], ["c"], [1.0], judge.price)
            assert (row["prompt_tokens"], row["completion_tokens"]) == (200, 40)
