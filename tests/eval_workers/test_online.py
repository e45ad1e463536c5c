"""Batched online training: answers of the policy, ranked by a judge, as data for the next steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_workers.answers.answering import Answering
from eval_workers.online import make_segment
from eval_workers.win_rate import win_rate
from mmpo_train.config import replace, to_dict
from mmpo_train.data.tokens import read_questions, read_table
from mmpo_train.errors import InputError
from mmpo_train.model.batches import collate
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, load_tokenizer
from mmpo_train.trial.segments import read_segment, segment_request
from tests.support.standins.judge_server import SERVER_ERROR, Fault, JudgeServer, shortest_wins
from tests.support.training import EVERY_STEP, curve
from tests.support.workers import train_jobs


@pytest.fixture
def server():
    with JudgeServer(verdict=shortest_wins) as server:
        yield server


def request_of(prepared: Any, folder: Path, judge: str, segment: int = 0, **fields: Any) -> dict[str, Any]:
    """What a trial on the prepared data asks for at a segment's start: answers to ten prompts."""
    common = {"objective": "on_mc_po", "judge": judge, "max_completion_tokens": 12}
    config = replace(prepared.config, common | fields)
    places = prepared.places
    return segment_request(
        to_dict(config),
        segment,
        np.arange(3, 13),
        policy=places.model,
        model=places.model,
        tokens=places.tokens,
        target=folder / f"segment-{segment + 1:04d}",
    )


def test_a_segment_holds_the_policys_answers_with_the_judges_favourite_first(prepared, server, tmp_path):
    request = request_of(prepared, tmp_path, server.spec())
    make_segment(Answering(tmp_path / "verdicts.sqlite"), request)
    segment = read_segment(Path(request["target"]))
    tokenizer, table = load_tokenizer(prepared.places.model), read_table(prepared.places.tokens, "train")
    answers = [json.loads(line) for line in (tmp_path / "answers-0001.jsonl").read_text().splitlines()]
    assert len(answers) == 60  # two at each of 0.6, 0.8 and 1.0 for ten prompts
    assert set(segment.prompts) <= set(range(3, 13)) and len(segment.prompts) == segment.metrics["online/prompts"] > 5
    for place, prompt, row in zip(
        segment.prompts, segment.scored.table.prompts, segment.scored.table.completions, strict=True
    ):
        assert prompt.tolist() == table.prompts[place].tolist()
        assert 2 <= len(row) <= 6 and len({ids.tobytes() for ids in row}) == len(row)
        lengths = [len(tokenizer.decode(ids, skip_special_tokens=True)) for ids in row]
        assert lengths[0] == min(lengths)
        assert all(ids.tolist() in [answer["ids"] for answer in answers] for ids in row)
    questions = read_questions(prepared.places.tokens, "train")
    assert {one.shown("question") for one in server.requests} <= {questions[place] for place in range(3, 13)}


def test_reference_log_probabilities_are_those_of_the_starting_model(prepared, server, tmp_path):
    request = request_of(prepared, tmp_path, server.spec())
    make_segment(Answering(tmp_path / "verdicts.sqlite"), request)
    scored = read_segment(Path(request["target"])).scored
    module = CompletionLogps(load_model(prepared.places.model))
    for row in range(len(scored.table)):
        logps = module(collate(scored.table, np.array([row]))).detach().numpy()
        np.testing.assert_allclose(scored.ref_logps[row, : len(logps)], logps, atol=1e-4)
        assert not scored.ref_logps[row, len(logps) :].any()


def test_the_same_request_gives_the_same_segment_and_another_seed_or_segment_another(prepared, server, tmp_path):
    answering = Answering(tmp_path / "verdicts.sqlite")
    contents = []
    for name, segment, seed in (("a", 0, 1), ("b", 0, 1), ("c", 1, 1), ("d", 0, 2)):
        request = request_of(prepared, tmp_path / name, server.spec(), segment, seed=seed)
        make_segment(answering, request)
        rows = read_segment(Path(request["target"])).scored.table.completions
        contents.append([[ids.tolist() for ids in row] for row in rows])
    assert contents[0] == contents[1] and contents[0] not in contents[2:]


def test_a_prompt_that_the_judge_fails_on_is_dropped_and_counted_and_the_others_stay(prepared, server, tmp_path):
    questions = read_questions(prepared.places.tokens, "train")
    server.fault_of = lambda request: (
        Fault(text="Both are fine.") if request.shown("question") == questions[5] else Fault()
    )
    request = request_of(prepared, tmp_path, server.spec())
    make_segment(Answering(tmp_path / "verdicts.sqlite"), request)
    segment = read_segment(Path(request["target"]))
    assert 5 not in segment.prompts and segment.metrics["online/unjudged"] == 1
    asked = sum(one.shown("question") == questions[5] for one in server.requests)
    assert asked == 4, "one retry of an unreadable verdict, and one of the comparison"


def test_a_fault_that_passes_loses_no_prompt(prepared, server, tmp_path):
    server.faults = [SERVER_ERROR, Fault(text="<verdict>C</verdict>"), Fault(hang_up=True)]
    request = request_of(prepared, tmp_path, server.spec())
    make_segment(Answering(tmp_path / "verdicts.sqlite"), request)
    assert read_segment(Path(request["target"])).metrics["online/unjudged"] == 0


def test_an_actor_killed_while_it_judges_pays_for_no_verdict_and_no_answer_twice(prepared, server, tmp_path):
    undisturbed = request_of(prepared, tmp_path / "whole", server.spec())
    make_segment(Answering(tmp_path / "whole.sqlite"), undisturbed)
    asked = len(server.requests)
    server.requests.clear()
    server.fault_of = lambda request: Fault(status=401) if len(server.requests) > asked // 2 else Fault()
    request = request_of(prepared, tmp_path / "cut", server.spec())
    with pytest.raises(InputError, match="key"):
        make_segment(Answering(tmp_path / "cut.sqlite"), request)
    answered = (tmp_path / "cut" / "answers-0001.jsonl").read_bytes()
    server.fault_of = lambda request: Fault()
    refused = sum(1 for _ in server.requests) - asked // 2
    make_segment(Answering(tmp_path / "cut.sqlite"), request)
    assert (tmp_path / "cut" / "answers-0001.jsonl").read_bytes() == answered
    assert len(server.requests) <= asked + refused
    ours, theirs = (read_segment(Path(one["target"])) for one in (request, undisturbed))
    assert ours.prompts.tolist() == theirs.prompts.tolist() and ours.metrics == theirs.metrics


def test_where_no_prompt_is_left_the_reason_is_told(prepared, server, tmp_path):
    server.fault_of = lambda request: Fault(text="No idea.")
    request = request_of(prepared, tmp_path, server.spec())
    with pytest.raises(InputError, match="all 10 prompts were dropped: 10 could not be judged.*no single verdict"):
        make_segment(Answering(tmp_path / "verdicts.sqlite"), request)
    assert not Path(request["target"]).exists()


@pytest.mark.slow
def test_online_trials_are_the_same_on_one_worker_and_two_and_after_an_interruption(prepared, server, tmp_path):
    def jobs(folder: str, stop_after_step: int = 10**9) -> list[dict]:
        built = []
        for name in ("on_mc_po", "online_dpo"):
            fields = {"objective": name, "judge": server.spec(), "epochs": 2, "max_completion_tokens": 12}
            fields |= EVERY_STEP
            config = replace(prepared.config, fields | {"pairs_per_step": 5, "learning_rate": 1e-3, "beta": 0.1})
            places = {key: str(path) for key, path in vars(prepared.places).items()} | {
                "trials": str(tmp_path / folder)
            }
            built.append({"config": to_dict(config), "places": places, "stop_after_step": stop_after_step})
        return built

    one, two = train_jobs(jobs("one"), workers=1), train_jobs(jobs("two"), workers=2)
    steps = len(curve(one[0]))
    for ours, theirs in zip(one, two, strict=True):
        assert max(abs(a - b) for a, b in zip(curve(ours), curve(theirs), strict=True)) < 1e-4
        told = [metrics["online/prompts"] for _, _, metrics in ours["points"] if "online/prompts" in metrics]
        assert len(told) == 3 and min(told) > 0, "a count of prompts at the start of each of three segments"
    train_jobs(jobs("cut", steps - 2), workers=1)
    for ours, theirs in zip(train_jobs(jobs("cut"), workers=1), one, strict=True):
        assert ours["safe"][0] == steps - 3, "within the third segment"
        assert curve(ours) == curve(theirs)
    [first, second, third] = sorted((tmp_path / "one").glob("*/segments/segment-*"))[:3]
    contents = {path.read_bytes() for path in (folder / "segment.parquet" for folder in (first, second, third))}
    assert len(contents) == 3
    assert not list((tmp_path / "one").glob("*/segments/policy-*")), "weights that were only needed for answering"


def test_a_checkpoint_that_answers_as_the_starting_model_wins_half(prepared, server, tmp_path):
    from mmpo_train.model.policy import save_model
    from mmpo_train.storage.manifest import write_folder
    from mmpo_train.trial.checkpoint import write_trial

    def fill(folder: Path) -> None:
        save_model(load_model(prepared.places.model), load_tokenizer(prepared.places.model), folder)
        write_trial(folder, replace(prepared.config, {"max_completion_tokens": 12}))

    write_folder(tmp_path / "epoch-0001", fill)
    scores = win_rate(
        Answering(tmp_path / "verdicts.sqlite"),
        tmp_path / "epoch-0001",
        prepared.places.model,
        prepared.places.tokens,
        server.spec(),
        tmp_path / "answers",
    )
    assert scores["answers/win_rate"] == 0.5 and scores["answers/win_rate_error"] == 0.0
    assert scores["answers/unjudged"] == 0 and scores["answers/tokens"] > 0
