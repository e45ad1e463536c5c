"""AlpacaEval as a whole: a real model answers, tiny's judge or one on localhost decides, numbers are computed again."""

import json
import re

import pytest

from eval_workers.alpaca import data as alpaca_data
from eval_workers.alpaca.data import read_prompts
from eval_workers.alpaca.evaluation import AlpacaEval, metric_name
from eval_workers.alpaca.length_control import Judged, length_controlled_win_rate
from eval_workers.answers.answering import Answering
from eval_workers.answers.sampling import Sampling
from eval_workers.judging.checks import NULL_ANSWER
from eval_workers.judging.specs import USUAL_JUDGES
from eval_workers.settings import EvaluationSettings
from mmpo_train.config import replace as with_values
from mmpo_train.errors import InputError
from mmpo_train.model.policy import load_model, save_model
from mmpo_train.tiny import rows as tiny
from tests.support.standins.judge_server import NO_VERDICT, Fault

MOST = 12


def alpaca(answering, *, seed=0, **values):
    """A cheap one: prompts of tiny, short answers, the author's sampling, no check of the judges."""
    usual = {"alpaca_prompts": "tiny", "judges": ("tiny",), "max_answer_tokens": MOST, "limit": 24, "checked_pairs": 0}
    return AlpacaEval(answering, EvaluationSettings(**usual | values), tiny=False, precision="fp32", seed=seed)


@pytest.fixture(scope="module")
def checkpoint(model_folder, tokenizer, tmp_path_factory):
    """The random model with its weights turned round, so that it gives other answers."""
    model = load_model(model_folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.flip(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "epoch-0001"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture
def answering(tmp_path):
    return Answering(tmp_path / "verdicts.sqlite")


@pytest.fixture
def good_answers(tmp_path):
    """An outputs.json with tiny's chosen answers to all validation prompts."""
    rows = [
        {"instruction": row["prompt"], "output": row["chosen"], "generator": "careful"}
        for row in tiny.preference_examples("validation")
    ]
    path = tmp_path / "good.json"
    path.write_text(json.dumps(rows))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_checkpoint_that_is_the_baseline_wins_half(answering, model_folder, tmp_path):
    metrics = alpaca(answering)(model_folder, baseline=model_folder, artifacts=tmp_path / "out")
    assert metrics["alpaca/win_rate"] == metrics["alpaca/win_rate/tiny"] == 0.5
    assert metrics["alpaca/win_rate_error/tiny"] == 0.0
    assert metrics["alpaca/lc_win_rate_minimal/tiny"] == pytest.approx(0.5)
    assert metrics["alpaca/judge_tokens"] == 0 and metrics["alpaca/judge_usd"] == 0
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-/ ]+", name) for name in metrics)


def test_metrics_and_files_say_what_was_answered_and_judged(answering, checkpoint, good_answers, tmp_path):
    """tiny's judge is right by rules, so the preferences are computed again from the outputs that were written."""
    evaluate = alpaca(answering, limit=0)
    metrics = evaluate(checkpoint, baseline=good_answers, artifacts=tmp_path)
    outputs = json.loads((tmp_path / "outputs.json").read_text())
    assert [row["instruction"] for row in outputs] == [row["prompt"] for row in tiny.preference_examples("validation")]
    assert {row["generator"] for row in outputs} == {"/".join(checkpoint.parts[-3:])}
    theirs = json.loads((tmp_path / "baseline_outputs.json").read_text())
    assert theirs == json.loads(good_answers.read_text())
    expected = []
    for ours, other in zip(outputs, theirs, strict=True):
        marks = [tiny.judge(row["instruction"], row["output"]) for row in (other, ours)]
        expected.append(1.0 if marks[0] > marks[1] else 2.0 if marks[1] > marks[0] else 1.5)
    annotations = lines(tmp_path / "annotations.jsonl")
    assert [row["preference"] for row in annotations] == expected
    assert annotations[3] == {
        "instruction": outputs[3]["instruction"],
        "generator_1": "careful",
        "output_1": theirs[3]["output"],
        "generator_2": outputs[3]["generator"],
        "output_2": outputs[3]["output"],
        "judge": "tiny",
        "preference": expected[3],
    }
    assert metrics["alpaca/win_rate"] == pytest.approx(sum(expected) / len(expected) - 1)
    assert metrics["alpaca/characters"] == pytest.approx(sum(len(row["output"]) for row in outputs) / len(outputs))
    assert 1 <= metrics["alpaca/tokens"] <= MOST and 0 < metrics["alpaca/cut"] <= len(outputs)
    assert metrics["alpaca/unjudged/tiny"] == 0
    # A random model wins against none of them, and a length control would mean nothing.
    assert "alpaca/lc_win_rate_minimal" not in metrics
    summary = json.loads((tmp_path / "alpaca_eval.json").read_text())
    assert "too one-sided" in summary["judges"]["tiny"]["length_control"]["reason"]
    assert summary["metrics"] == metrics and summary["settings"]["seed"] == 0
    assert set(summary["rendering"]) == {"chat_template_sha256", "chat_date"}


def test_an_interrupted_run_goes_on_where_it_was(answering, checkpoint, model_folder, tmp_path, monkeypatch):
    """Killed after the second batch; another object finishes, and the answers are those of a run without a break."""
    monkeypatch.setattr("eval_workers.answers.generation.TOKENS_PER_BATCH", 300)
    whole = alpaca(Answering(tmp_path / "elsewhere" / "verdicts.sqlite"))
    whole(checkpoint, baseline=model_folder, artifacts=tmp_path / "whole")

    class Killed(Exception):
        """What the process would have died of."""

    ran = type(answering.generator).run
    made = []

    def run(self, batches):
        for number, batch in enumerate(ran(self, batches)):
            made.append(len(batch))
            yield batch
            if number == 1 and len(made) == 2:
                raise Killed

    monkeypatch.setattr(type(answering.generator), "run", run)
    with pytest.raises(Killed):
        alpaca(answering)(checkpoint, baseline=model_folder, artifacts=tmp_path / "cut")
    before = sum(made)
    assert 0 < before < 24
    alpaca(Answering(answering.verdicts))(checkpoint, baseline=model_folder, artifacts=tmp_path / "cut")
    assert sum(made) == 2 * 24
    for name in ("outputs.json", "baseline_outputs.json", "annotations.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_baseline_answers_once_wherever_its_folder_stands(
    answering, checkpoint, model_folder, tokenizer, tmp_path, monkeypatch
):
    """Found by content: by the same object, by another one, and for a copy of the model."""
    evaluate = alpaca(answering)
    evaluate(checkpoint, baseline=model_folder, artifacts=tmp_path / "one")
    batches = []
    ran = type(answering.generator).run
    monkeypatch.setattr(
        type(answering.generator), "run", lambda self, wanted: batches.extend(wanted) or ran(self, wanted)
    )
    save_model(load_model(model_folder), tokenizer, tmp_path / "copy")
    evaluate(checkpoint, baseline=tmp_path / "copy", artifacts=tmp_path / "two")
    alpaca(Answering(answering.verdicts))(checkpoint, baseline=model_folder, artifacts=tmp_path / "three")
    assert batches == []
    alpaca(answering, seed=1)(checkpoint, baseline=model_folder, artifacts=tmp_path / "four")
    assert sum(map(len, batches)) == 2 * 24
    first, fourth = (json.loads((tmp_path / name / "outputs.json").read_text()) for name in ("one", "four"))
    assert sum(one["output"] != other["output"] for one, other in zip(first, fourth)) > 12


def test_adapters_are_rendered_with_their_base_models_template(
    model_folder, base_config, tokenizer, answering, tmp_path
):
    """A folder of LoRA adapters has no config.json; fresh ones change nothing, so each answer draws."""
    model = load_model(model_folder, config=with_values(base_config, {"lora_rank": 2}))
    save_model(model, tokenizer, tmp_path / "adapters")
    metrics = alpaca(answering)(tmp_path / "adapters", baseline=model_folder, artifacts=tmp_path / "out")
    assert metrics["alpaca/win_rate"] == 0.5


def test_a_judge_that_fails_is_counted_and_what_it_costs_is_told(answering, checkpoint, model_folder, server, tmp_path):
    """One prompt never gets a verdict. The price is 1 and 2 USD per million tokens; a second run pays for nothing new
    but the two tries at the prompt that failed."""
    spec = f"{server.spec()},price=1/2"
    one = alpaca(answering, judges=(spec, "tiny"))
    lost = one.prompts[5]
    server.fault_of = lambda request: NO_VERDICT if request.shown("question") == lost else Fault()
    metrics = one(checkpoint, baseline=model_folder, artifacts=tmp_path)
    annotations = lines(tmp_path / "annotations.jsonl")
    ours = [row for row in annotations if row["judge"] != "tiny"]
    assert len(annotations) == 48 and [row["preference"] is None for row in ours] == [n == 5 for n in range(24)]
    for row in ours:
        difference = len(row["output_2"].strip()) - len(row["output_1"].strip())
        if row["preference"] is not None and difference:
            assert row["preference"] in (1.0, 2.0)
    judged = [row["preference"] - 1 for row in ours if row["preference"] is not None]
    assert metrics["alpaca/unjudged/openai_scripted"] == 1 and metrics["alpaca/unjudged/tiny"] == 0
    assert metrics["alpaca/unjudged_share/openai_scripted"] == 1 / 24 and metrics["alpaca/unjudged_share/tiny"] == 0
    assert metrics["alpaca/win_rate/openai_scripted"] == pytest.approx(sum(judged) / 23)
    both = metrics["alpaca/win_rate/openai_scripted"], metrics["alpaca/win_rate/tiny"]
    assert metrics["alpaca/win_rate"] == pytest.approx(sum(both) / 2)
    sent, said = (sum(tokens) for tokens in zip(*server.charged))
    assert metrics["alpaca/judge_tokens"] == sent + said
    assert metrics["alpaca/judge_usd"] == pytest.approx((sent + 2 * said) / 1e6)
    summary = json.loads((tmp_path / "alpaca_eval.json").read_text())
    assert summary["judges"]["openai_scripted"]["unjudged"] == {"no single verdict": 1}
    asked = len(server.requests)
    again = one(checkpoint, baseline=model_folder, artifacts=tmp_path)
    assert {request.shown("question") for request in server.requests[asked:]} == {lost}
    assert 0 < again["alpaca/judge_tokens"] < metrics["alpaca/judge_tokens"]


def test_a_cap_stops_before_it_is_exceeded(answering, checkpoint, model_folder, server, tmp_path):
    spec = f"{server.spec()},price=5/10"
    capped = alpaca(answering, judges=(spec,), cap_usd=0.03)
    with pytest.raises(InputError, match="exceed the cap of 0.03 USD"):
        capped(checkpoint, baseline=model_folder, artifacts=tmp_path)
    assert capped.judges["openai_scripted"].spent().usd <= 0.03
    assert (tmp_path / "outputs.json").exists()


def test_the_published_form_alone_has_the_published_name(answering, checkpoint, model_folder, server, tmp_path):
    """Difficulties and gamed rows for every prompt: lc_win_rate; for some of the prompts, _part; without gamed, _noreg.

    The judge prefers the longer answer, and the controlled rate is the one of `length_controlled_win_rate`.
    """
    prompts = read_prompts("tiny")[:60]
    (tmp_path / "prompts.json").write_text(json.dumps([{"instruction": prompt} for prompt in prompts]))
    difficulty = {prompt: (number % 7 - 3) / 2 for number, prompt in enumerate(prompts)}
    (tmp_path / "difficulty.json").write_text(json.dumps(difficulty))
    gamed = {"preference": [(number % 10) / 9 for number in range(60)], "std_delta_len": [1.0, -1.0] * 30}
    (tmp_path / "gamed.json").write_text(json.dumps({"longer": gamed}))
    server.verdict = lambda request: "AB"[len(request.prompt) % 2]

    def names(**values):
        files = {"alpaca_prompts": str(tmp_path / "prompts.json"), "alpaca_difficulty": tmp_path / "difficulty.json"}
        given = files | {"limit": 0}
        evaluate = alpaca(answering, **given | {"judges": (server.spec(),)} | values)
        metrics = evaluate(checkpoint, baseline=model_folder, artifacts=tmp_path)
        return metrics, evaluate, {name.split("/")[1] for name in metrics if "lc_" in name}

    assert names()[2] == {"lc_win_rate_noreg", "lc_win_rate_noreg_error"}
    assert names(alpaca_gamed=tmp_path / "gamed.json", limit=30)[2] == {"lc_win_rate_part", "lc_win_rate_part_error"}
    metrics, evaluate, found = names(alpaca_gamed=tmp_path / "gamed.json")
    assert found == {"lc_win_rate", "lc_win_rate_error"}
    judged = [
        Judged(row["instruction"], row["preference"] - 1, len(row["output_2"]), len(row["output_1"]))
        for row in lines(tmp_path / "annotations.jsonl")
    ]
    expected = length_controlled_win_rate(judged, difficulty, evaluate.gamed)
    assert metrics["alpaca/lc_win_rate"] == metrics["alpaca/lc_win_rate/openai_scripted"] == expected.rate
    assert metrics["alpaca/lc_win_rate_error/openai_scripted"] == expected.standard_error
    with pytest.raises(InputError, match="expected 00"):
        names(alpaca_gamed=tmp_path / "gamed.json", alpaca_gamed_sha256="00" * 32)


def test_beside_a_win_rate_stand_that_of_the_null_answer_and_the_order_flips(
    answering, checkpoint, good_answers, server, tmp_path
):
    """tiny's judge cannot be talked to and sees no order; one that believes the note lets it win always, and prefers
    whatever is shown first otherwise."""
    server.verdict = lambda request: "B" if NULL_ANSWER in request.shown("answer-b") else "A"
    one = alpaca(answering, judges=("tiny", server.spec()), limit=6, checked_pairs=4)
    metrics = one(checkpoint, baseline=good_answers, artifacts=tmp_path)
    found = {name: value for name, value in metrics.items() if "null" in name or "flip" in name}
    assert found == {
        "alpaca/null_win_rate/tiny": 0.0,
        "alpaca/null_win_rate/openai_scripted": 1.0,
        "alpaca/null_win_rate": 0.5,
        "alpaca/order_flip_rate/tiny": 0.0,
        "alpaca/order_flip_rate/openai_scripted": 1.0,
        "alpaca/order_flip_rate": 0.5,
    }


def test_prompts_are_read_from_every_form_once_each(tmp_path):
    wanted = ["Why?", "How, and\nwhen?"]
    forms = {
        "a.json": json.dumps([{"instruction": wanted[0], "output": "x"}, {"prompt": wanted[1]}, {"prompt": wanted[0]}]),
        "b.json": json.dumps(wanted),
        "c.jsonl": "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in wanted) + "\n",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert read_prompts(str(tmp_path / name)) == wanted
    (tmp_path / "d.txt").write_text("Why?\n\n  How?  \n")
    assert read_prompts(str(tmp_path / "d.txt")) == ["Why?", "How?"]
    assert len(read_prompts("tiny")) == tiny.RECIPE.validation_prompts


def test_prompts_that_cannot_be_used_are_refused(tmp_path):
    def refusal(name, text):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError) as caught:
            read_prompts(str(tmp_path / name))
        return str(caught.value)

    assert "row 2 has no text under instruction or prompt" in refusal("a.json", '[{"prompt": "x"}, {"text": "y"}]')
    assert "are not JSON" in refusal("b.jsonl", "{")
    assert "not a JSON list" in refusal("c.json", '{"prompt": "x"}')
    assert "has no prompts" in refusal("d.txt", "\n")
    with pytest.raises(InputError, match="prompts 'nowhere.json' cannot be read"):
        read_prompts("nowhere.json")


def test_the_official_prompts_come_from_the_hub_or_its_cache(tmp_path, monkeypatch):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"instruction": "Why?", "output": "Because.", "generator": "gpt4_1106_preview"}]))
    asked = []
    monkeypatch.setattr(alpaca_data, "fetch", lambda name: asked.append(name) or path)
    assert read_prompts("alpaca_eval") == ["Why?"] and asked == ["alpaca_eval_gpt4_baseline.json"]


def test_a_baseline_without_an_answer_to_each_prompt_is_refused(answering, checkpoint, good_answers, tmp_path):
    rows = json.loads(good_answers.read_text())
    good_answers.write_text(json.dumps(rows[1:]))
    one = alpaca(answering)
    with pytest.raises(InputError, match="no answer to 1 of 24 prompts"):
        one(checkpoint, baseline=good_answers, artifacts=tmp_path / "out")
    good_answers.write_text('{"instruction": 1}')
    with pytest.raises(InputError, match="is not a list of {instruction, output, generator}"):
        one(checkpoint, baseline=good_answers, artifacts=tmp_path / "out")


def test_unknown_judges_are_told_all_at_once(answering):
    with pytest.raises(InputError) as caught:
        alpaca(answering, judges=("nobody", "tiny", "neither"))
    assert "'nobody' is unknown" in str(caught.value) and "'neither' is unknown" in str(caught.value)


def test_sampling_is_that_of_the_papers_author_and_tinys_is_greedy(answering):
    author, tinys = (
        AlpacaEval(
            answering,
            EvaluationSettings(alpaca_prompts="tiny", judges=() if tiny else ("tiny",)),
            tiny=tiny,
            precision="fp32",
        )
        for tiny in (False, True)
    )
    assert author.sampling == Sampling(temperature=0.95, top_p=0.8, max_new_tokens=4096)
    assert tinys.sampling == Sampling(temperature=0.0, max_new_tokens=128) and list(tinys.judges) == ["tiny"]
    assert USUAL_JUDGES == ("weighted_alpaca_eval_gpt-4o-mini-2024-07-18", "claude-haiku-4-5-20251001")


def test_a_limit_takes_prompts_from_all_over_and_judges_have_names_for_metrics(answering):
    some = alpaca(answering, limit=4).prompts
    assert some == [read_prompts("tiny")[place] for place in (0, 128, 256, 384)]
    assert metric_name("weighted:some/model+prompt-1@http://host:1/v1") == "weighted_some_model_prompt-1"
    with pytest.raises(InputError, match="two judges would both be called 'tiny'"):
        alpaca(answering, judges=("tiny", "tiny"))
