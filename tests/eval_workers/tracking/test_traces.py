"""Judged pairs as traces of a run, on a real MLflow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval_workers.judging.costs import Price
from eval_workers.judging.pairs import Call, pair_rows, read_pairs, write_pairs
from eval_workers.tracking import traces
from eval_workers.tracking.addresses import resolve
from eval_workers.tracking.store import Store

SECRET = "sk-proj-" + "a1B2c3D4" * 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("ledger")
    return Store(resolve(None, folder), folder)


def judged(folder: Path, judge: str, pairs: int) -> Path:
    """Files of an evaluation in which the judge was asked about the first pair, in the other order, at a price."""
    call = Call(100, 20, f"B wins, says {SECRET}")
    asked = SimpleNamespace(name=judge, calls={("question 0", "theirs", "ours"): call})
    questions = [f"question {number}" for number in range(pairs)]
    won = [(1.0, 0.5, 0.0, None)[number % 4] for number in range(pairs)]
    rows = pair_rows(asked, questions, ["ours"] * pairs, ["theirs"] * pairs, won, Price(1.0, 5.0))
    assert not asked.calls
    write_pairs(folder, [*read_pairs(folder), *rows])
    return folder


def traces_of(store: Store, run: Any) -> list[Any]:
    where = [run.info.experiment_id]
    found = store.client.search_traces(locations=where, run_id=run.info.run_id, max_results=500)
    return sorted(found, key=lambda one: (one.data.spans[0].inputs["question"], one.info.tags["judge"]))


def test_every_pair_is_a_trace_with_verdict_tokens_and_cost_and_a_repetition_adds_none(store, tmp_path):
    """100 prompt tokens at 1 USD and 20 completion tokens at 5 USD per million are 0.0002 USD."""
    run = store.client.create_run("0")
    judged(tmp_path, "openai:big", 4)
    for _ in range(2):
        traces.log_pairs(store, run.info.run_id, tmp_path, "evaluations/epoch-0002/alpaca")
        found = traces_of(store, run)
        assert [one.info.tags["verdict"] for one in found] == ["answer", "tie", "other answer", "no verdict"]
    first, second = found[0], found[1]
    [span] = first.data.spans
    assert span.inputs == {"question": "question 0", "answer": "ours", "other_answer": "theirs"}
    assert span.outputs["preference"] == 1.0 and span.outputs["judge"][0].startswith("B wins")
    assert first.info.token_usage == {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
    assert first.info.cost["total_cost"] == pytest.approx(0.0002)
    assert second.info.token_usage is None and second.data.spans[0].outputs["judge"] == []
    assert first.info.tags["evaluation"] == "evaluations/epoch-0002/alpaca" and first.info.tags["judge"] == "openai:big"
    assert SECRET not in str(first.to_dict())


def test_the_first_hundred_pairs_of_each_judge_are_traces(store, tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "MOST", 3)
    run = store.client.create_run("0")
    judged(judged(tmp_path, "openai:big", 5), "anthropic:small", 5)
    traces.log_pairs(store, run.info.run_id, tmp_path, "alpaca")
    assert [(one.data.spans[0].inputs["question"], one.info.tags["judge"]) for one in traces_of(store, run)] == [
        (f"question {number}", judge) for number in range(3) for judge in ("anthropic:small", "openai:big")
    ]


def test_a_folder_without_pairs_leaves_no_trace(store, tmp_path):
    run = store.client.create_run("0")
    traces.log_pairs(store, run.info.run_id, tmp_path, "harness")
    assert traces_of(store, run) == []
