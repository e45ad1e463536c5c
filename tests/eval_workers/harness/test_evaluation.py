"""The ten packaged tasks on made-up rows and tiny's own: against plain transformers, lm-eval's own model, cold runs."""

import json
import math
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from eval_workers.harness.evaluation import LMHarness, _Scorer
from eval_workers.harness.loglikelihoods import Requests
from eval_workers.harness.tasks import HARNESS_TASKS, TINY_TASKS, missing_data, tiny_rows
from eval_workers.warm_model import WarmModel
from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.rendering import prompt_ids
from mmpo_train.errors import InputError
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, save_model
from mmpo_train.model.scoring import model_forward
from mmpo_train.storage.manifest import DamagedFolder, verify, write_folder
from mmpo_train.tiny.tasks import judge
from mmpo_train.trial.checkpoint import write_trial
from tests.support.task_rows import rows_of, write_rows
from tests.support.tokenizers import byte_tokenizer

DOCUMENTS = 4
FEW = ("winogrande", "piqa", "openbookqa")


@pytest.fixture(scope="module")
def subjects():
    import lm_eval.tasks

    files = (Path(lm_eval.tasks.__file__).parent / "mmlu" / "default").glob("mmlu_*.yaml")
    return sorted(path.stem.removeprefix("mmlu_") for path in files)


@pytest.fixture(scope="module")
def task_data(tmp_path_factory, subjects):
    """All ten, each file in one of the places where it may stand; mmlu's subjects have two or three documents, whose
    questions hold what other readers take for the end of a line."""
    folder = tmp_path_factory.mktemp("task_data")
    for task in HARNESS_TASKS:
        if task != "mmlu":
            places = [folder / f"{task}.jsonl", *(folder / task / f"{split}.jsonl" for split in ("test", "validation"))]
            place = places[{"race": 1, "piqa": 2}.get(task, 0)]
            write_rows(place, [rows_of(task, number) for number in range(DOCUMENTS)])
    choices = ["one", "two", "three", "a lamp"]
    rows = [
        {"question": f"What is\u2028{number}?", "subject": subject, "choices": choices, "answer": number % 4}
        for place, subject in enumerate(subjects)
        for number in range(2 + place % 2)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "mmlu.jsonl").write_text("\ufeff" + "\n\n".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ten(task_data, cache):
    """A harness of all ten tasks, warm after its first call."""
    return LMHarness(task_data=task_data, cache=cache)


@pytest.fixture
def connections(monkeypatch):
    """What was asked of the network; every attempt is refused."""
    tried = []

    def refuse(*arguments, **options):
        tried.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: tried.append(("sleep", seconds)))
    return tried


@pytest.fixture(scope="module")
def first_call(ten, model_folder, tmp_path_factory):
    artifacts = tmp_path_factory.mktemp("artifacts")
    return ten(str(model_folder), artifacts=artifacts), artifacts / "harness"


def samples_of(folder, task):
    return [json.loads(line) for line in (folder / "samples" / f"{task}.jsonl").read_text().splitlines()]


def by_transformers(model, tokenizer, context, continuation):
    """Sum of log softmax over the tokens that the continuation adds to its context; one request, no padding.

    Spaces at a context's end belong to the continuation.
    """
    whole = tokenizer.encode(context + continuation)
    start = len(tokenizer.encode(context.rstrip(" \n") if context.endswith((" ", "\n")) else context))
    with torch.no_grad():
        logits = model(torch.tensor([whole[:-1]])).logits[0].double()
    logps = logits - torch.logsumexp(logits, -1, keepdim=True)
    return sum(logps[place - 1, whole[place]].item() for place in range(start, len(whole)))


def other_checkpoint(model_folder, tokenizer, folder):
    """The random model with its weights turned round."""
    model = load_model(model_folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.flip(0)
    save_model(model, tokenizer, folder)
    return str(folder)


def test_ten_tasks_are_scored_by_their_packaged_definitions(first_call, ten):
    """Accuracies are shares of four documents; mmlu's is the share over all subjects' documents, not the mean of
    57 shares. The mean is over ten tasks, its error sqrt(sum of squares) / 10.
    """
    metrics, folder = first_call
    assert ten.missing == {}
    assert list(metrics)[:10] == [f"harness/{task}/acc" for task in HARNESS_TASKS]
    verify(folder)
    result = json.loads((folder / "results.json").read_text())
    errors = []
    for task in HARNESS_TASKS:
        right = [row["acc"] for row in samples_of(folder, task)]
        row = result["tasks"][task]
        assert metrics[f"harness/{task}/acc"] == pytest.approx(sum(right) / len(right)) == row["acc"]
        assert len(right) == row["documents"] == (DOCUMENTS if task != "mmlu" else 57 * 2 + 28)
        errors.append(row["acc_stderr"])
        if task != "mmlu":
            assert row["acc_stderr"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))
    by_subject: dict[str, list[float]] = {}
    for sample in samples_of(folder, "mmlu"):
        by_subject.setdefault(sample["task"], []).append(sample["acc"])
    assert len(by_subject) == 57
    for name, right in by_subject.items():
        assert result["subjects"][name]["acc"] == pytest.approx(np.mean(right))
    pooled = sum(float(np.var(right)) * len(right) for right in by_subject.values()) / (142 - 57)
    assert result["tasks"]["mmlu"]["acc_stderr"] == pytest.approx(math.sqrt(pooled / 142))
    accuracies = [metrics[f"harness/{task}/acc"] for task in HARNESS_TASKS]
    assert metrics["harness/mean_accuracy"] == pytest.approx(sum(accuracies) / 10)
    assert metrics["harness/mean_accuracy_error"] == pytest.approx(math.sqrt(sum(one**2 for one in errors)) / 10)
    assert len(metrics) == 12 and not any(set(",%@") & set(name) for name in metrics)


def test_loglikelihoods_are_those_of_plain_transformers(first_call, model_folder, tokenizer):
    _, folder = first_call
    model = load_model(model_folder)
    for task in HARNESS_TASKS:
        for row in samples_of(folder, task)[:6]:
            expected = [by_transformers(model, tokenizer, *pair) for pair in row["arguments"]]
            assert row["loglikelihoods"] == pytest.approx(expected, abs=1e-4), task


def test_requests_are_rendered_as_the_task_and_the_template_say(first_call, task_data, cache, model_folder, tmp_path):
    """piqa's second document: a user turn, the answer straight after the assistant's header. Without the template a
    blank joins them.
    """
    _, folder = first_call
    pair = samples_of(folder, "piqa")[1]["arguments"][0]
    question = "Question: add 1 and 3\nAnswer:"
    assert pair == [f"<|im_start|>user\n{question}<|im_end|><|im_start|>assistant\n", "Say 4."]
    assert samples_of(folder, "mmlu")[0]["arguments"][0][0].startswith("<|im_start|>system\nThe following are")
    bare = LMHarness(tasks=FEW, task_data=task_data, chat_template=False, cache=cache)
    bare(str(model_folder), artifacts=tmp_path)
    rows = samples_of(tmp_path / "harness", "piqa")
    assert rows[1]["arguments"][0] == [question, " Say 4."]
    assert rows[1]["loglikelihoods"] != samples_of(folder, "piqa")[1]["loglikelihoods"]


def test_bos_is_where_the_template_writes_it_as_in_training_and_generation():
    """A tokenizer that puts BOS before any text, with a template that writes none, one that does, and without one."""
    from tokenizers.processors import TemplateProcessing

    for name, expected in (("zephyr", 0), ("mistral", 1)):
        tokenizer = byte_tokenizer(name)
        bos = tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
        asked = [{"role": "user", "content": "2+2?"}]
        scorer = _Scorer(tokenizer, "", 512, chat=True)
        ids = scorer.tok_encode(scorer.apply_chat_template(asked))
        assert ids == prompt_ids(tokenizer, asked) and ids.count(bos) == expected
        plain = _Scorer(tokenizer, "", 512, chat=False)
        assert plain.tok_encode("2+2?").count(bos) == 1 == plain.tok_encode("<s>2+2?").count(bos)


def test_loglikelihoods_are_those_of_lm_evals_own_model(
    first_call, task_data, cache, model_folder, tokenizer, tmp_path
):
    """The library's class for Hugging Face models on the same requests, with the chat template and without."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=load_model(model_folder), tokenizer=tokenizer, batch_size=3)
    LMHarness(tasks=FEW, task_data=task_data, chat_template=False, cache=cache)(str(model_folder), artifacts=tmp_path)
    for folder, tasks in ((first_call[1], HARNESS_TASKS), (tmp_path / "harness", FEW)):
        rows = [row for task in tasks for row in samples_of(folder, task)]
        pairs = [tuple(pair) for row in rows for pair in row["arguments"]]
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        expected = [score for score, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
        assert [score for row in rows for score in row["loglikelihoods"]] == pytest.approx(expected, abs=1e-4)


def test_the_next_checkpoint_gets_what_a_cold_run_gives(
    ten, first_call, task_data, cache, model_folder, tokenizer, tmp_path
):
    other = other_checkpoint(model_folder, tokenizer, tmp_path / "other")
    scorer, model = ten._scorer, ten.warm.model
    warm = ten(other, artifacts=tmp_path / "warm")
    assert ten._scorer is scorer and ten.warm.model is model, "nothing is made again"
    cold = LMHarness(task_data=task_data, cache=cache)(other, artifacts=tmp_path / "cold")
    assert warm == cold != first_call[0]
    for task in HARNESS_TASKS:
        samples = [(tmp_path / kind / "harness" / "samples" / f"{task}.jsonl").read_text() for kind in ("warm", "cold")]
        assert samples[0] == samples[1]
    assert ten(str(model_folder), artifacts=tmp_path / "again") == first_call[0]


def test_adapters_are_exchanged_on_their_base(cache, model_folder, tokenizer, tmp_path):
    """Two adapter folders with the same configuration: the base stays, the numbers are a cold run's; another rank
    is loaded anew.
    """
    folders = []
    for seed, rank in ((1, 4), (2, 4), (3, 2)):
        model = load_model(model_folder, config=replace(TrialConfig(), {"lora_rank": rank}))
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.5)
        folders.append(tmp_path / f"adapter-{seed}")
        save_model(model, tokenizer, folders[-1])
    harness = LMHarness(tasks=TINY_TASKS[:1], limit=30, cache=cache)
    whole = harness(str(model_folder), artifacts=tmp_path / "base")
    found, models = [], []
    for number, folder in enumerate(folders):
        harness(str(folder), artifacts=tmp_path / f"warm-{number}")
        models.append(id(harness.warm.model))
        LMHarness(tasks=TINY_TASKS[:1], limit=30, cache=cache)(str(folder), artifacts=tmp_path / f"cold-{number}")
        found.append(samples_of(tmp_path / f"warm-{number}" / "harness", TINY_TASKS[0]))
        assert found[-1] == samples_of(tmp_path / f"cold-{number}" / "harness", TINY_TASKS[0])
    assert models[0] == models[1] != models[2]
    assert found[0] != found[1] != found[2]
    assert harness(str(model_folder), artifacts=tmp_path / "base again") == whole


def test_adapters_on_a_base_that_was_written_again_are_loaded_anew(model_folder, tokenizer, tmp_path):
    save_model(load_model(model_folder), tokenizer, tmp_path / "base")
    save_model(
        load_model(tmp_path / "base", config=replace(TrialConfig(), {"lora_rank": 2})), tokenizer, tmp_path / "adapter"
    )
    warm = WarmModel()
    before = warm.load(tmp_path / "adapter", "fp32")(torch.tensor([[5, 6, 7]])).logits
    other_checkpoint(model_folder, tokenizer, tmp_path / "base")
    after = warm.load(tmp_path / "adapter", "fp32")(torch.tensor([[5, 6, 7]])).logits
    cold = WarmModel().load(tmp_path / "adapter", "fp32")(torch.tensor([[5, 6, 7]])).logits
    assert (after == cold).all() and (after != before).any()


def test_tiny_asks_what_the_model_was_not_taught(cache, model_folder, tmp_path):
    for task in TINY_TASKS:
        for row in tiny_rows(task):
            marks = [judge(row["question"], choice) for choice in row["choices"]]
            assert marks[row["answer"]] == 1.0 and max(marks[: row["answer"]] + marks[row["answer"] + 1 :]) < 0.6
            assert len(set(row["choices"])) == len(row["choices"]) >= 2
    metrics = LMHarness(tasks=TINY_TASKS, cache=cache)(str(model_folder), artifacts=tmp_path)
    assert list(metrics) == [
        *(f"harness/{task}/acc" for task in TINY_TASKS),
        "harness/mean_accuracy",
        "harness/mean_accuracy_error",
    ]
    sizes = [
        row["documents"] for row in json.loads((tmp_path / "harness" / "results.json").read_text())["tasks"].values()
    ]
    assert min(sizes) >= 90


def test_what_is_missing_is_named_and_the_rest_is_kept(task_data, cache, model_folder, tmp_path, subjects):
    """piqa's file is not there, openbookqa's has other columns, mmlu has one subject; winogrande is fine."""
    folder = tmp_path / "data"
    write_rows(folder / "winogrande.jsonl", [rows_of("winogrande", number) for number in range(3)])
    write_rows(folder / "openbookqa.jsonl", [{"question": "what?"}])
    write_rows(folder / "mmlu" / "anatomy.jsonl", [{"question": "what?", "choices": list("abcd"), "answer": 1}])
    harness = LMHarness(tasks=("winogrande", "piqa", "openbookqa", "mmlu"), task_data=folder, cache=tmp_path / "cache")
    metrics = harness(str(model_folder), artifacts=tmp_path)
    assert list(metrics) == ["harness/winogrande/acc"], "no mean without all tasks"
    assert list(harness.missing) == ["piqa", "openbookqa", "mmlu"]
    assert "piqa/validation.jsonl" in harness.missing["piqa"] and "columns" in harness.missing["openbookqa"]
    assert "1 subjects" in harness.missing["mmlu"] and "virology" in harness.missing["mmlu"]
    result = json.loads((tmp_path / "harness" / "results.json").read_text())
    assert result["missing"] == harness.missing and result["mean_accuracy"] is None
    assert [line.split(":")[0] for line in missing_data(HARNESS_TASKS[:3], folder)] == ["arc_easy", "piqa"]

    write_rows(folder / "piqa.jsonl", [rows_of("piqa", number) for number in range(3)])
    assert list(harness(str(model_folder), artifacts=tmp_path)) == ["harness/winogrande/acc", "harness/piqa/acc"]
    with pytest.raises(InputError, match=r"race.*race/test.jsonl"):
        LMHarness(tasks=("race",), task_data=folder, cache=tmp_path / "cache")(str(model_folder), artifacts=tmp_path)


def test_local_rows_need_no_network(connections, task_data, model_folder, tmp_path):
    tasks = ("hellaswag", "race", *TINY_TASKS[:1])
    metrics = LMHarness(tasks=tasks, task_data=task_data, cache=tmp_path)(str(model_folder), artifacts=tmp_path)
    assert len(metrics) == 5 and connections == []


def test_a_hub_that_is_not_there_is_named_and_asked_once(connections, model_folder, tmp_path):
    harness = LMHarness(tasks=("piqa", "mmlu", "race", *TINY_TASKS[:1]), limit=4, cache=tmp_path)
    assert list(harness(str(model_folder), artifacts=tmp_path)) == [f"harness/{TINY_TASKS[0]}/acc"]
    assert list(harness.missing) == ["piqa", "mmlu", "race"]
    assert all("could not be loaded from the hub" in reason for reason in harness.missing.values())
    assert 0 < sum(seconds for kind, seconds, *_ in connections if kind == "sleep") < 30


def test_changed_rows_are_read_again(cache, model_folder, tmp_path):
    """The same file name with other rows: nothing of the old ones is left in a cache."""
    found = []
    for first in (0, 5):
        write_rows(tmp_path / "piqa.jsonl", [rows_of("piqa", number) for number in range(first, first + 3)])
        LMHarness(tasks=("piqa",), task_data=tmp_path, cache=tmp_path / "cache")(str(model_folder), artifacts=tmp_path)
        found.append(samples_of(tmp_path / "harness", "piqa")[0]["doc"]["goal"])
    assert found == ["add 0 and 3", "add 5 and 3"]


def test_what_cannot_be_asked_is_refused(cache, tmp_path):
    with pytest.raises(InputError, match=r"'hellaswga' is unknown; did you mean 'hellaswag'\?.*tiny_facts"):
        LMHarness(tasks=("hellaswga",), cache=cache)
    with pytest.raises(InputError, match="no task"):
        LMHarness(tasks=(), cache=cache)
    with pytest.raises(InputError, match="limit is 0"):
        LMHarness(limit=0, cache=cache)
    with pytest.raises(InputError, match="does not exist"):
        LMHarness(task_data=tmp_path / "none", cache=cache)


def test_a_checkpoint_of_ours_is_verified_and_has_its_own_precision(cache, model_folder, tokenizer, tmp_path):
    def fill(folder):
        save_model(load_model(model_folder), tokenizer, folder)
        write_trial(folder, replace(TrialConfig(), {"precision": "bf16"}))

    write_folder(tmp_path / "checkpoint", fill)
    harness = LMHarness(tasks=TINY_TASKS[:1], limit=5, cache=cache)
    harness(str(tmp_path / "checkpoint"), artifacts=tmp_path)
    assert json.loads((tmp_path / "harness" / "results.json").read_text())["precision"] == "bf16"
    assert len(samples_of(tmp_path / "harness", TINY_TASKS[0])) == 5
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(DamagedFolder):
        harness(str(tmp_path / "checkpoint"), artifacts=tmp_path)


def test_a_pass_that_does_not_fit_is_halved(model_folder):
    """Memory for 60 tokens a pass: the same numbers."""
    forward = model_forward(CompletionLogps(load_model(model_folder)), torch.device("cpu"), "fp32")
    pairs = [
        (list(range(5, 9 + number)), list(range(20, 21 + number % 3 + option)))
        for number in range(8)
        for option in (0, 1)
    ]
    expected = Requests(pairs, 512).score(forward, torch.device("cpu"), "fp32")
    tokens = []

    def small_memory(one):
        if one.prompt_count > 1 and one.input_ids.numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        tokens.append(one.input_ids.numel())
        return forward(one)

    scores = Requests(pairs, 512).score(small_memory, torch.device("cpu"), "fp32")
    assert scores == pytest.approx(expected, abs=1e-5) and len(tokens) > 3


def test_long_contexts_are_cut_from_the_left(model_folder):
    """Eight positions: of 9 context tokens and 3 to score, the last 6 and all 3 are seen (the last is not read)."""
    model = load_model(model_folder)
    forward = model_forward(CompletionLogps(model), torch.device("cpu"), "fp32")
    [score] = Requests([(range(10, 19), [3, 4, 5])], 8).score(forward, torch.device("cpu"), "fp32")
    with torch.no_grad():
        logps = model(torch.tensor([[13, 14, 15, 16, 17, 18, 3, 4]])).logits[0].log_softmax(-1)
    assert score == pytest.approx(
        sum(logps[place, token].item() for place, token in ((5, 3), (6, 4), (7, 5))), abs=1e-4
    )
    with pytest.raises(InputError, match="9 tokens does not fit"):
        Requests([([1], range(9))], 8)


def test_a_diverged_model_is_refused(cache, model_folder, tokenizer, tmp_path):
    model = load_model(model_folder)
    model.get_input_embeddings().weight.data.fill_(math.nan)
    save_model(model, tokenizer, tmp_path / "model")
    with pytest.raises(InputError, match="diverged"):
        LMHarness(tasks=TINY_TASKS[:1], limit=3, cache=cache)(str(tmp_path / "model"), artifacts=tmp_path)
    assert not os.path.exists(tmp_path / "harness")
