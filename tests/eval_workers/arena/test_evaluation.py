"""Arena-Hard as a whole: a model's answers, baselines from a folder or the starting model, judged over real HTTP."""

import json
import logging
import re

import pytest

from eval_workers.answers.answering import Answering
from eval_workers.arena.data import read_answers, read_questions
from eval_workers.arena.evaluation import ArenaHard
from eval_workers.settings import EvaluationSettings
from mmpo_train.errors import InputError
from mmpo_train.model.policy import load_model, save_model
from tests.support.arena_folders import NEW, OLD, folder_with, new_answer, old_answer
from tests.support.standins import judge_server
from tests.support.standins.judge_server import Fault


def arena(answering, questions=None, *, judge="tiny", seed=0, **values):
    """A cheap one: short answers, no check of the judge."""
    usual = {"arena_questions": questions, "max_answer_tokens": 6, "checked_pairs": 0}
    return ArenaHard(answering, EvaluationSettings(**usual | values), judge=judge, precision="fp32", seed=seed)


# As upstream's two games: the candidate is B in the first, A in the second.
LABELS = {"one": ("B>>A", "A>B"), "two": ("A=B", "A=B"), "three": ("A>>B", "B>A"), "four": ("B>A", "B>>A")}
WINNERS = {"one": "ours", "two": "tie", "three": "theirs", "four": "ours"}


@pytest.fixture(scope="module")
def checkpoint(model_folder, tokenizer, tmp_path_factory):
    """The random model with its weights turned round, so that it gives other answers."""
    model = load_model(model_folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.flip(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "epoch-1"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """One model in memory for all tests."""
    return Answering(tmp_path_factory.mktemp("answering") / "verdicts.sqlite")


@pytest.fixture
def four(tmp_path):
    """Four questions of v2.0 in two categories, with the answers of both usual baselines."""
    categories = ["hard_prompt", "creative_writing", "hard_prompt", "creative_writing"]
    rows = [{"uid": f"u-{name}", "category": kind, "prompt": name} for name, kind in zip(LABELS, categories)]
    hard, creative = ([new_answer(row["uid"], {"answer": f"{who} says"}) for row in rows] for who in ("o3", "gemini"))
    folder = folder_with(tmp_path / "four", rows, **{"o3-mini-2025-01-31": hard})
    return folder_with(folder, rows, **{"gemini-2.0-flash-001": creative})


def is_baseline(text):
    return text in ("o3 says", "gemini says")


def label_as_planned(request):
    first_game = is_baseline(request.shown("answer-a"))
    return f"Decided: [[{LABELS[request.shown('question')][0 if first_game else 1]}]]"


def verdict_as_planned(request):
    winner = WINNERS[request.shown("question")]
    return "tie" if winner == "tie" else "A" if (winner == "theirs") == is_baseline(request.shown("answer-a")) else "B"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_five_labels_in_two_games_give_upstreams_rate(server, answering, four, checkpoint, model_folder, tmp_path):
    """Won of played: one 4/4, two 1/2, three 0/4, four 1/4, so 6/14; without weights 4/8.

    hard_prompt (one, three) 4/8; creative_writing (two, four) 2/6.
    """
    server.text = label_as_planned
    judged = arena(answering, four, judge=server.spec(), arena_form="labels")
    metrics = judged(checkpoint, starting_model=model_folder, artifacts=tmp_path / "out")
    assert metrics["arena_hard/win_rate"] == 6 / 14 and metrics["arena_hard/plain_win_rate"] == 0.5
    assert metrics["arena_hard/hard_prompt/win_rate"] == 0.5
    assert metrics["arena_hard/creative_writing/win_rate"] == 2 / 6
    assert 0 <= metrics["arena_hard/win_rate_low"] < 6 / 14 < metrics["arena_hard/win_rate_high"] <= 1
    assert metrics["arena_hard/unjudged"] == 0 and 1 <= metrics["arena_hard/tokens"] <= 6
    assert all(re.fullmatch(r"[\w./-]+", name, re.ASCII) for name in metrics)
    shown = {(request.shown("question"), is_baseline(request.shown("answer-a"))) for request in server.requests}
    assert len(server.requests) == 8 and shown == {(name, first) for name in LABELS for first in (True, False)}
    rows = lines(tmp_path / "out" / "judgments.jsonl")
    assert [tuple(row["labels"]) for row in rows] == list(LABELS.values())
    assert [(row["points"], row["weight"]) for row in rows] == [(4, 4), (1, 2), (0, 4), (1, 4)]
    assert rows[1]["baseline"] == "gemini-2.0-flash-001" and rows[2]["baseline"] == "o3-mini-2025-01-31"


def test_one_game_gives_the_papers_rate_whichever_is_shown_first(
    server, answering, four, checkpoint, model_folder, tmp_path
):
    """Two wins, a tie, a loss: (2 + 1/2) / 4 with every seed, though the seeds show them in several orders."""
    server.verdict = verdict_as_planned
    orders = set()
    for seed in range(4):
        judged = arena(answering, four, judge=server.spec(model=f"m{seed}"), seed=seed)
        metrics = judged(checkpoint, starting_model=model_folder, artifacts=tmp_path / "out")
        assert metrics["arena_hard/win_rate"] == 0.625 and "arena_hard/plain_win_rate" not in metrics
        orders |= {(r.shown("question"), is_baseline(r.shown("answer-a"))) for r in server.requests}
    assert len(orders) > 4
    assert [row["labels"] for row in lines(tmp_path / "out" / "judgments.jsonl")] == [["a"], ["tie"], ["b"], ["a"]]


@pytest.mark.parametrize("form, rate, won", [("labels", 6 / 14, 2 / 10), ("verdict", 0.625, 0.5)])
def test_what_the_judge_fails_on_is_counted_and_left_out(
    server, answering, four, checkpoint, model_folder, tmp_path, caplog, form, rate, won
):
    """Without question one: labels 2/10; a win, a tie and a loss make 1/2. Asked again, only that one is asked."""
    server.text = label_as_planned if form == "labels" else None
    server.verdict = verdict_as_planned
    server.fault_of = lambda request: Fault(text="Hm.") if request.shown("question") == "one" else Fault()
    where = {"starting_model": model_folder, "artifacts": tmp_path / "out"}
    judged = arena(Answering(tmp_path / "verdicts.sqlite"), four, judge=server.spec(), arena_form=form)
    with caplog.at_level(logging.WARNING):
        metrics = judged(checkpoint, **where)
    assert metrics["arena_hard/unjudged"] == 1 and metrics["arena_hard/win_rate"] == won
    assert metrics["arena_hard/unjudged_share"] == 0.25
    summary = json.loads((tmp_path / "out" / "arena_hard.json").read_text())
    assert summary["metrics"] == metrics and summary["rendering"]["chat_date"] == "2024-07-26" and judged.facts
    assert "1 of 4 unjudged (no single verdict: 1)" in caplog.text
    row = lines(tmp_path / "out" / "judgments.jsonl")[0]
    assert row["labels"] is None and row["points"] is None and row["weight"] == 0
    server.fault_of, asked = lambda request: Fault(), len(server.requests)
    metrics = judged(checkpoint, **where)
    assert metrics["arena_hard/unjudged"] == 0 and metrics["arena_hard/win_rate"] == rate
    assert {request.shown("question") for request in server.requests[asked:]} == {"one"}


def test_without_any_judgement_there_is_no_win_rate(server, four, checkpoint, model_folder, tmp_path):
    server.fault_of = lambda request: judge_server.REFUSED
    judged = arena(Answering(tmp_path / "verdicts.sqlite"), four, judge=server.spec(), arena_form="labels")
    metrics = judged(checkpoint, starting_model=model_folder, artifacts=tmp_path / "out")
    assert set(metrics) == {
        f"arena_hard/{name}" for name in ("unjudged", "unjudged_share", "cut", "tokens", "judge_tokens")
    }
    assert metrics["arena_hard/unjudged"] == 4


def test_a_killed_run_goes_on_where_it_was(server, four, checkpoint, model_folder, tmp_path, monkeypatch):
    """The key is refused after three games: what was answered and judged is there, and nothing is paid for twice."""
    server.text = label_as_planned
    server.fault_of = lambda request: judge_server.UNAUTHORISED if len(server.requests) > 3 else Fault()
    settings = {"questions": four, "judge": server.spec(), "arena_form": "labels"}
    where = {"starting_model": model_folder, "artifacts": tmp_path / "out"}
    with pytest.raises(InputError, match="refuses the key"):
        arena(Answering(tmp_path / "verdicts.sqlite"), **settings)(checkpoint, **where)
    answers = (tmp_path / "out" / "answers.jsonl").read_text()
    judged, server.fault_of = len(server.requests), lambda request: Fault()
    again = Answering(tmp_path / "verdicts.sqlite")
    monkeypatch.setattr(again.generator, "_answer", None)  # called, it would fail
    metrics = arena(again, **settings)(checkpoint, **where)
    assert metrics["arena_hard/win_rate"] == 6 / 14 and len(server.requests) == judged + 5
    assert (tmp_path / "out" / "answers.jsonl").read_text() == answers
    free = metrics | {"arena_hard/judge_tokens": 0.0}  # all of it was paid for before
    assert arena(again, **settings)(checkpoint, **where) == free and len(server.requests) == judged + 5


def test_answers_are_written_as_upstream_reads_them(server, answering, checkpoint, model_folder, tmp_path):
    """v0.1, gpt-4-0314 by default; the folder of artifacts with the questions is a folder to compare with."""
    rows = [old_answer(row["question_id"], "Four.") for row in OLD]
    folder = folder_with(tmp_path / "old", OLD, **{"gpt-4-0314": rows})
    metrics = arena(answering, folder, judge=server.spec())(
        checkpoint, starting_model=model_folder, artifacts=tmp_path / "out"
    )
    assert not any("arena-hard-v0.1" in name for name in metrics), "one category is no category"
    written = read_answers(tmp_path / "out", "epoch-1", read_questions(folder))
    shown = {request.shown(name) for request in server.requests for name in ("answer-a", "answer-b")}
    assert shown == {*written, "Four."}


def test_the_starting_model_can_be_the_baseline(server, answering, checkpoint, model_folder, tmp_path):
    """Its answers are generated once for all checkpoints; against itself all is a tie and nothing is asked."""
    folder = folder_with(tmp_path / "new", NEW)
    judged = arena(answering, folder, arena_baseline="starting_model", judge=server.spec())
    metrics = judged(model_folder, starting_model=model_folder, artifacts=tmp_path / "itself")
    assert metrics["arena_hard/win_rate"] == 0.5 and not server.requests
    judged(checkpoint, starting_model=model_folder, artifacts=tmp_path / "out")
    questions = read_questions(folder)
    ours, theirs = (read_answers(tmp_path / "out", name, questions) for name in ("epoch-1", "starting_model"))
    assert ours != theirs == read_answers(tmp_path / "itself", model_folder.name, questions)
    assert {request.shown("answer-a") for request in server.requests} <= {*ours, *theirs}


def test_tiny_needs_neither_files_nor_a_network(answering, checkpoint, model_folder, tmp_path):
    """A random model's answers are all wrong, so that few marks differ."""
    for form in ("verdict", "labels"):
        judged = arena(answering, arena_form=form, limit=5)
        assert len(judged.questions) == 5 and set(judged.baselines) == {"starting_model"}
        metrics = judged(checkpoint, starting_model=model_folder, artifacts=tmp_path / form)
        assert 0 <= metrics["arena_hard/win_rate"] <= 1 and metrics["arena_hard/unjudged"] == 0
        assert len(lines(tmp_path / form / "judgments.jsonl")) == 5
    usual = arena(answering, max_answer_tokens=0)
    assert len(usual.questions) == 512 and usual.sampling.max_new_tokens == 256
    folder = folder_with(tmp_path / "new", NEW)
    assert (
        arena(answering, folder, arena_baseline="starting_model", max_answer_tokens=0).sampling.max_new_tokens == 4096
    )


def test_bad_settings_are_refused(answering):
    for bad, said in (
        ({"arena_baseline": "gpt-4"}, "starting_model only"),
        ({"judge": "gpt"}, "judge 'gpt' is unknown"),
        ({"max_answer_tokens": -1}, "max_new_tokens is -1"),
    ):
        with pytest.raises(InputError, match=said):
            arena(answering, **bad)


def test_a_baseline_that_is_not_there_is_refused_before_anything_is_answered(answering, four):
    with pytest.raises(InputError, match=r"gpt-5.jsonl does not exist; .*gemini-2.0-flash-001, o3-mini-2025-01-31"):
        arena(answering, four, arena_baseline="gpt-5")


def test_two_categories_that_one_metric_would_mix_are_refused(answering, tmp_path):
    rows = [{"uid": kind, "category": kind, "prompt": "Why?"} for kind in ("math/code", "math code")]
    with pytest.raises(InputError, match="'math code', 'math/code'; rename one"):
        arena(answering, folder_with(tmp_path / "two", rows))


@pytest.mark.parametrize("form", ["verdict", "labels"])
def test_a_cap_stops_the_judge_before_it_has_cost_more_and_what_it_cost_is_told(
    form, server, answering, four, checkpoint, model_folder, tmp_path
):
    server.verdict, server.text = verdict_as_planned, label_as_planned if form == "labels" else None
    common = {"judge": f"{server.spec(model=f'capped-{form}')},price=1000/1000", "arena_form": form}
    with pytest.raises(InputError, match="cap"):
        arena(answering, four, cap_usd=1e-9, **common)(
            checkpoint, starting_model=model_folder, artifacts=tmp_path / "out"
        )
    assert not server.requests, "not even one request may begin"
    metrics = arena(answering, four, cap_usd=1000.0, **common)(
        checkpoint, starting_model=model_folder, artifacts=tmp_path / "out"
    )
    assert metrics["arena_hard/judge_usd"] == pytest.approx(metrics["arena_hard/judge_tokens"] / 1000)
    assert metrics["arena_hard/judge_tokens"] > 0 and "arena_hard/win_rate" in metrics


def test_a_cap_without_a_price_is_refused(server, answering, four):
    with pytest.raises(InputError, match="price of judge"):
        arena(answering, four, judge=server.spec(model="unheard-of"), cap_usd=1.0)
