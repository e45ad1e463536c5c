"""Our side of vLLM's documented contract.

vLLM needs a GPU and is not installed where these tests run. Its place is taken by a stand-in of a few classes written
from its documentation (LLM, SamplingParams, TokensPrompt, LoRARequest, RequestOutput), which draws tokens by the seed
and refuses arguments and values that vLLM does not document. Whether vLLM itself keeps to it is not tested here.
"""

import json
import random
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from eval_workers.answers import generation, vllm_generation
from eval_workers.answers.answering import Answering, Policy
from eval_workers.answers.generation import Generator, generate_to
from eval_workers.answers.sampling import Answer, Sampling, plan, tasks_of
from eval_workers.answers.vllm_generation import VllmGenerator
from mmpo_train.data.rendering import end_ids_of
from mmpo_train.errors import InputError
from mmpo_train.model.policy import load_tokenizer
from tests.support.generation import Dying, Killed

ENDS = [3, 17, 31]
PROMPTS = [[40, 41], [50, 51, 52], [60], [70, 71, 72, 73]]
MIXED = [
    Sampling(temperature=0.0, max_new_tokens=9),
    Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12, seed=5),
    Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12, seed=5),
]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list
    detokenize: bool

    def __post_init__(self):
        assert 0 <= self.temperature <= 2 and 0 < self.top_p <= 1 and self.max_tokens >= 1
        assert 0 <= self.seed < 2**63 and all(type(one) is int for one in self.stop_token_ids)


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class StandIn:
    """The module, with what was asked of it."""

    def __init__(self):
        self.engines, self.calls, self.alive, self.fault = [], [], 0, None

    def llm(self, model, *, dtype, load_format, trust_remote_code, generation_config, max_model_len, **others):
        assert set(others) <= {"gpu_memory_utilization", "enable_prefix_caching", "enable_lora", "max_lora_rank"}
        if self.fault:
            raise self.fault
        self.alive += 1
        assert self.alive == 1, "two engines at a time"
        self.engines.append({"model": model, "dtype": dtype, "max_model_len": max_model_len, **others})
        assert (load_format, trust_remote_code, generation_config) == ("safetensors", False, "vllm")

        def generate(prompts, sampling_params, *, use_tqdm, lora_request):
            assert not use_tqdm and len(prompts) == len(sampling_params)
            self.calls.append((prompts, sampling_params, lora_request))
            return [
                SimpleNamespace(outputs=[self.complete(prompt["prompt_token_ids"], params)])
                for prompt, params in zip(prompts, sampling_params)
            ]

        core = SimpleNamespace(shutdown=self.shutdown)
        return SimpleNamespace(generate=generate, llm_engine=SimpleNamespace(engine_core=core))

    def shutdown(self):
        self.alive -= 1

    def complete(self, prompt, params):
        assert prompt and all(type(token) is int for token in prompt)
        stream = random.Random(str(prompt) if params.temperature == 0 else params.seed)
        ids = []
        while len(ids) < params.max_tokens:
            ids.append(stream.randrange(34))
            if ids[-1] in params.stop_token_ids:
                return SimpleNamespace(token_ids=tuple(ids), finish_reason="stop", stop_reason=ids[-1])
        return SimpleNamespace(token_ids=tuple(ids), finish_reason="length", stop_reason=None)


def torch_that_sees(gpu):
    """For the module alone: models stay where they are loaded."""
    return SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: gpu))


@pytest.fixture
def vllm(monkeypatch):
    """The stand-in, on a machine that seems to have a GPU."""
    stand_in = StandIn()
    names = {
        "vllm": {"LLM": stand_in.llm, "SamplingParams": SamplingParams},
        "vllm.inputs": {"TokensPrompt": dict},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
    }
    for name, content in names.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vllm_generation, "torch", torch_that_sees(gpu=True))
    monkeypatch.setattr(vllm_generation, "_running", [])
    return stand_in


@pytest.fixture
def generator(vllm, model_folder):
    made = VllmGenerator()
    made.load(model_folder, ENDS, precision="bf16")
    return made


def answers_of(generator, prompts=PROMPTS, samplings=MIXED):
    wanted = tasks_of(prompts, samplings)
    found = {}
    for batch in generator.run(plan((task for row in wanted for task in row), 50)):
        found |= batch
    return [[found[task] for task in row] for row in wanted]


def adapter(folder, base, rank, content=b"one"):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base), "r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(content)
    return folder


def test_each_task_is_asked_as_it_is_set_with_a_seed_of_its_own(generator, vllm):
    answers_of(generator)
    [(prompts, params, request)] = vllm.calls
    assert request is None and len(prompts) == 12
    asked = sorted(
        (one["prompt_token_ids"], each.temperature, each.top_p, each.max_tokens) for one, each in zip(prompts, params)
    )
    expected = [(p, s.temperature, s.top_p, s.max_new_tokens) for p in PROMPTS for s in MIXED]
    assert asked == sorted(expected)
    assert len({each.seed for each in params}) == 12
    assert all(each.stop_token_ids == sorted(generator.ends) and not each.detokenize for each in params)


def test_the_engine_is_asked_for_safetensors_half_the_memory_and_no_more_positions_than_needed(
    generator, vllm, model_folder
):
    answers_of(generator)
    assert vllm.engines == [
        {
            "model": str(model_folder),
            "dtype": "bfloat16",
            "max_model_len": 512,  # of 1024, the first step, the model has 512
            "gpu_memory_utilization": 0.5,
            "enable_prefix_caching": True,
        }
    ]
    generator.load(model_folder, ENDS, precision="bf16")
    answers_of(generator)
    assert len(vllm.engines) == 1, "the same weights need no other engine"
    generator.load(model_folder, ENDS, precision="fp32")
    answers_of(generator)
    assert vllm.engines[1]["dtype"] == "float32" and vllm.alive == 1


def test_nothing_to_answer_starts_no_engine(generator, vllm):
    assert list(generator.run([])) == [] and vllm.engines == []


def test_end_tokens_are_those_given_and_the_models_own(generator, model_folder, tokenizer):
    assert generator.ends == {*ENDS, tokenizer.eos_token_id}
    own = Generator()
    own.load(model_folder, ENDS, precision="fp32")
    assert own.ends == generator.ends


def test_answers_stand_in_the_order_of_the_tasks_and_depend_on_the_seed_alone(generator):
    whole = answers_of(generator)
    assert answers_of(generator, PROMPTS[::-1])[::-1] == whole
    assert [answers_of(generator, [prompt])[0] for prompt in PROMPTS] == whole
    assert all(row[1] != row[2] for row in whole)
    other = [Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12, seed=6)]
    assert [row[0] for row in answers_of(generator, samplings=other)] != [row[1] for row in whole]


def test_a_finished_answer_has_one_end_token_and_a_cut_one_none(generator):
    answers = [answer for row in answers_of(generator, samplings=MIXED * 3) for answer in row]
    assert {answer.finished for answer in answers} == {True, False}
    for ids, finished in answers:
        assert not generator.ends & set(ids[:-1]) and (ids[-1] in generator.ends) == finished
        assert finished or len(ids) in (9, 12)


@pytest.mark.parametrize(
    ("ids", "reason", "expected"),
    [
        ((5, 17), "stop", Answer([5, 17], True)),
        ((5, 17), "length", Answer([5, 17], True)),  # the end token came as the last one allowed
        ((5, 6), "length", Answer([5, 6], False)),
        ((5, 6), "stop", None),
        ((5, 6), "abort", None),
        ((), "length", None),
    ],
)
def test_what_ended_an_answer_is_told_by_its_last_token_and_anything_unknown_is_refused(
    generator, vllm, ids, reason, expected
):
    vllm.complete = lambda prompt, params: SimpleNamespace(token_ids=ids, finish_reason=reason, stop_reason=None)
    if expected:
        assert answers_of(generator, PROMPTS[:1], MIXED[:1]) == [[expected]]
    else:
        with pytest.raises(RuntimeError, match=f"finish_reason '{reason}'"):
            answers_of(generator, PROMPTS[:1], MIXED[:1])


def test_adapters_share_an_engine_and_are_never_mistaken_for_one_another(generator, vllm, model_folder, tmp_path):
    answers_of(generator)
    first, second = (adapter(tmp_path / name, model_folder, 5) for name in ("first", "second"))
    for folder in (first, first, second):
        generator.load(folder, ENDS, precision="bf16")
        answers_of(generator)
    adapter(second, model_folder, 5, b"trained on")
    generator.load(second, ENDS, precision="bf16")
    answers_of(generator)
    assert [engine.get("max_lora_rank") for engine in vllm.engines] == [None, 8]
    assert vllm.engines[1]["model"] == str(model_folder) and vllm.engines[1]["enable_lora"] is True
    requests = [request for _, _, request in vllm.calls[1:]]
    assert [(one.lora_int_id, one.lora_path) for one in requests] == [
        (1, str(first)),
        (1, str(first)),
        (2, str(second)),
        (3, str(second)),
    ]
    assert len({one.lora_name for one in requests}) == 3
    generator.load(model_folder, ENDS, precision="bf16")
    answers_of(generator)
    assert vllm.calls[-1][2] is None and len(vllm.engines) == 3 and vllm.alive == 1


def test_other_weights_take_a_new_engine_in_the_place_of_the_old_one(generator, vllm, model_folder, tmp_path):
    answers_of(generator)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    other = VllmGenerator()
    other.load(copy, ENDS, precision="bf16")
    answers_of(other)
    assert [engine["model"] for engine in vllm.engines] == [str(model_folder), str(copy)] and vllm.alive == 1
    answers_of(generator)
    other.free()
    assert len(vllm.engines) == 3 and vllm.alive == 1, "free takes nothing from another generator"
    generator.free()
    assert vllm.alive == 0


def test_answers_are_saved_as_they_come_and_a_killed_run_goes_on(vllm, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_generation, "TASKS_PER_CALL", 5)
    monkeypatch.setattr(generation, "TOKENS_PER_BATCH", 30)
    generator = VllmGenerator()
    generator.load(model_folder, ENDS, precision="bf16")
    undisturbed = generate_to(tmp_path / "whole.jsonl", generator, "model", PROMPTS, MIXED)
    assert [len(prompts) for prompts, _, _ in vllm.calls] == [5, 5, 2]
    path = tmp_path / "cut.jsonl"
    with pytest.raises(Killed):
        generate_to(path, Dying(generator, batches=1), "model", PROMPTS, MIXED)
    kept = path.read_bytes()
    assert kept.count(b"\n") == 5
    vllm.calls.clear()
    assert generate_to(path, generator, "model", PROMPTS, MIXED) == undisturbed
    assert path.read_bytes().startswith(kept) and path.read_bytes().count(b"\n") == 12
    assert sum(len(prompts) for prompts, _, _ in vllm.calls) < 12


def test_what_vllm_cannot_answer_is_refused(generator, vllm, model_folder, tmp_path):
    with pytest.raises(InputError, match="exceed the 512 positions"):
        answers_of(generator, samplings=[Sampling(max_new_tokens=510)])
    with pytest.raises(InputError, match="no tokens"):
        answers_of(generator, [[]])
    with pytest.raises(InputError, match="temperature is 2.5.*generator own"):
        answers_of(generator, samplings=[Sampling(temperature=2.5, max_new_tokens=9)])
    with pytest.raises(InputError, match="bf16 only"):
        generator.load(adapter(tmp_path / "lora", model_folder, 4), ENDS, precision="fp32")
    with pytest.raises(InputError, match="rank 1024"):
        generator.load(adapter(tmp_path / "lora", model_folder, 1024), ENDS, precision="bf16")
    with pytest.raises(InputError, match="safetensors"):
        generator.load(tmp_path, ENDS, precision="bf16")
    assert vllm.engines == []
    vllm.fault = ValueError("Free memory on device is less than desired GPU memory utilization")
    with pytest.raises(InputError, match="Free memory.*50% of the GPU's memory.*generator own"):
        answers_of(generator)


def test_without_vllm_or_a_gpu_our_own_generator_answers_and_vllm_is_refused(tmp_path, monkeypatch, request):
    monkeypatch.setattr(vllm_generation.importlib.util, "find_spec", lambda name: None)
    for name in ("auto", "own"):
        answering = Answering(tmp_path / "verdicts.sqlite", name)
        assert isinstance(answering.generator, Generator) and answering.warm is answering.generator.warm
    with pytest.raises(InputError, match="pip install vllm"):
        Answering(tmp_path / "verdicts.sqlite", "vllm")
    monkeypatch.undo()
    request.getfixturevalue("vllm")
    monkeypatch.setattr(vllm_generation, "torch", torch_that_sees(gpu=False))
    assert isinstance(Answering(tmp_path / "verdicts.sqlite").generator, Generator)
    with pytest.raises(InputError, match="CUDA"):
        Answering(tmp_path / "verdicts.sqlite", "vllm")


def test_where_vllm_can_run_it_answers_unless_our_own_is_asked_for(vllm, tmp_path):
    for name in ("auto", "vllm"):
        assert isinstance(Answering(tmp_path / "verdicts.sqlite", name).generator, VllmGenerator)
    assert isinstance(Answering(tmp_path / "verdicts.sqlite", "own").generator, Generator)


def test_one_file_never_mixes_the_answers_of_both_generators(vllm, model_folder, tmp_path, monkeypatch):
    path, prompts = tmp_path / "answers.jsonl", [np.array(prompt) for prompt in PROMPTS]
    wanted = (path, Policy(model_folder, "policy", model_folder, "fp32"), prompts, MIXED)
    by_vllm, texts = Answering(tmp_path / "verdicts.sqlite").answers(*wanted)
    assert [[type(text) for text in row] for row in texts] == [[str] * 3] * 4
    monkeypatch.setattr(vllm_generation, "torch", torch_that_sees(gpu=False))
    ours, _ = Answering(tmp_path / "verdicts.sqlite").answers(*wanted)
    assert path.read_text().count("\n") == 24 and ours != by_vllm
    own = Generator()
    own.load(model_folder, end_ids_of(load_tokenizer(model_folder)), precision="fp32")
    assert generate_to(path, own, "policy", PROMPTS, MIXED) == ours
    assert path.read_text().count("\n") == 24, "the own generator's keys are those without vllm"


def test_the_reference_is_scored_where_the_engine_was(vllm, model_folder, tmp_path, monkeypatch):
    answering = Answering(tmp_path / "verdicts.sqlite")
    wanted = (Policy(model_folder, "policy", model_folder, "fp32"), [np.array(PROMPTS[0])], MIXED)
    answering.answers(tmp_path / "a.jsonl", *wanted)
    assert vllm.alive == 1
    answering.scorer(model_folder, "fp32")
    assert vllm.alive == 0 and answering.warm.model is not None
    answering.answers(tmp_path / "b.jsonl", *wanted)
    assert vllm.alive == 1 and answering.warm.model is None
