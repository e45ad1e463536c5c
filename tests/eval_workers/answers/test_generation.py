"""Generated answers against transformers' own, against the softmax, against themselves in other company."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from eval_workers.answers import generation
from eval_workers.answers.generation import Generator, generate_to
from eval_workers.answers.sampling import Answer, Sampling, draw, padded_tokens, plan, tasks_of
from eval_workers.warm_model import WarmModel
from mmpo_train.chat.messages import Message
from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.rendering import end_ids_of, render
from mmpo_train.errors import InputError
from mmpo_train.model.policy import load_model, load_tokenizer, save_model
from tests.support.generation import Dying, Killed, generate
from tests.support.models import random_model

SIX = [Sampling(temperature=t, max_new_tokens=12, seed=5) for t in (0.6, 0.6, 0.8, 0.8, 1.0, 1.0)]
GREEDY = Sampling(temperature=0.0, max_new_tokens=16)


@pytest.fixture(scope="module")
def prompts(tokenizer, preference_rows):
    """Nine prompts of several lengths, as rendered."""
    texts = [render(tokenizer, [Message("user", row["prompt"])], add_generation_prompt=True) for row in preference_rows]
    found = [tokenizer.encode(text, add_special_tokens=False) for text in texts[:9]]
    assert len(set(map(len, found))) > 3
    return found


@pytest.fixture(scope="module")
def ends(tokenizer):
    """Every fifteenth token, so that answers of a random model end at all lengths."""
    return [tokenizer.eos_token_id, *range(3, len(tokenizer), 15)]


@pytest.fixture
def generator(model_folder, ends):
    made = Generator()
    made.load(model_folder, ends, precision="fp32")
    return made


def other_checkpoint(model_folder, tokenizer, folder, **generation):
    """The random model with its weights turned round, and perhaps another generation_config."""
    model = load_model(model_folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.flip(0)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    save_model(model, tokenizer, folder)
    return folder


def greedy_by_transformers(model, prompts, ends):
    """Greedy answers by the library's own loop, each prompt alone and unpadded."""
    answers = []
    for prompt in prompts:
        ids = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=GREEDY.max_new_tokens,
            eos_token_id=list(ends),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        answers.append([Answer(ids, ids[-1] in ends)])
    return answers


def test_greedy_answers_are_those_of_transformers(generator, prompts, model_folder):
    ours = generate(generator, prompts, [GREEDY])
    assert ours == greedy_by_transformers(load_model(model_folder), prompts, generator.ends)
    assert {row[0].finished for row in ours} == {True, False}


def test_sliding_windows_stay_aligned_when_rows_leave(prompts, ends, tokenizer, tmp_path):
    """Mistral's cache holds eight tokens a layer here, fewer than any prompt has."""
    random_model("mistral", vocab_size=len(tokenizer), eos_token_id=None).save_pretrained(tmp_path)
    generator = Generator()
    generator.load(tmp_path, ends, precision="fp32")
    ours = generate(generator, prompts, [GREEDY])
    assert ours == greedy_by_transformers(generator.warm.model, prompts, generator.ends)
    assert len({len(row[0].ids) for row in ours}) > 2


def expected_shares(model, prompt, temperature, top_p):
    """Probability of each next token: plain Python floats, the likeliest first until they reach top_p."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].tolist()
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    shares = {token: weight / sum(weights) for token, weight in enumerate(weights)}
    kept, mass = {}, 0.0
    for token, share in sorted(shares.items(), key=lambda item: -item[1]):
        if mass < top_p:
            kept[token] = share
        mass += share
    return {token: share / sum(kept.values()) for token, share in kept.items()}


def test_drawn_tokens_are_distributed_as_the_softmax_at_their_temperature(generator, prompts, model_folder):
    """Pearson's statistic over tokens expected five times or more, the rest pooled; mean = degrees of freedom k,
    variance 2k. Three settings share the batches. A temperature wrong by a tenth gives more than k + 5 sqrt(2k).
    """
    settings = [Sampling(temperature=t, top_p=p, max_new_tokens=1, seed=3) for t, p in ((0.6, 1), (1.0, 1), (1.0, 0.7))]
    times = 4000
    answers = generate(generator, prompts[:1], [one for one in settings for _ in range(times)])[0]
    model = load_model(model_folder)

    def excess(number, temperature, top_p):
        """How many standard deviations Pearson's statistic lies above its mean."""
        shares = expected_shares(model, prompts[0], temperature, top_p)
        seen = Counter(answer.ids[0] for answer in answers[number * times : (number + 1) * times])
        common = [token for token, share in shares.items() if share * times >= 5]
        pairs = [(seen[token], shares[token] * times) for token in common]
        rest = times - sum(expected for _, expected in pairs)
        if rest > 1:
            pairs.append((times - sum(count for count, _ in pairs), rest))
        degrees = len(pairs) - 1
        statistic = sum((count - expected) ** 2 / expected for count, expected in pairs)
        assert degrees > 10
        return (statistic - degrees) / math.sqrt(2 * degrees), seen.keys() <= shares.keys()

    for number, one in enumerate(settings):
        deviations, inside = excess(number, one.temperature, one.top_p)
        assert deviations < 4 and inside, one
    assert excess(0, 0.66, 1)[0] > 5 and excess(1, 1.1, 1)[0] > 5
    assert not excess(1, 1.0, 0.7)[1]  # without the cut, others are drawn too


def test_draw_picks_where_the_cumulative_probability_passes_the_number():
    """Probabilities 0.2, 0, 0.5, 0.3: [0, 0.2) is token 0, [0.2, 0.7) token 2, [0.7, 1) token 3. With top_p 0.5 the
    likeliest alone stays, with 0.6 the two likeliest: 5/8 and 3/8.
    """
    below_one = float(np.nextafter(1, 0))
    cases: list[tuple[float, ...]] = [
        (1, 1, 0.0, 0),
        (1, 1, 0.19, 0),
        (1, 1, 0.21, 2),
        (1, 1, 0.69, 2),
        (1, 1, 0.71, 3),
        (1, 1, below_one, 3),
    ]
    cases += [(1, 0.5, 0.0, 2), (1, 0.5, below_one, 2), (1, 0.6, 0.62, 2), (1, 0.6, 0.63, 3), (0, 1, 0.9, 2)]
    temperature, top_p, uniforms, expected = (list(column) for column in zip(*cases))
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(len(cases), 4)
    drawn = draw(logits, *(torch.tensor(column, dtype=torch.float64) for column in (temperature, top_p, uniforms)))
    assert drawn.tolist() == expected


def test_answers_do_not_depend_on_company_or_order(generator, prompts):
    whole = generate(generator, prompts, SIX)
    assert len({tuple(answer.ids) for row in whole for answer in row}) > 45
    assert generate(generator, prompts, SIX, tokens_per_batch=1) == whole
    assert generate(generator, prompts[::-1], SIX, tokens_per_batch=150)[::-1] == whole
    assert [generate(generator, [prompt], SIX)[0] for prompt in prompts[:2]] == whole[:2]
    turned = generate(generator, prompts[:2], [GREEDY, *SIX[2:], *SIX[:2]])
    assert [[*row[5:], *row[1:5]] for row in turned] == whole[:2]
    assert generate(generator, [prompts[0], prompts[0]], SIX) == [whole[0], whole[0]]


def test_another_seed_gives_other_answers_and_more_tokens_the_same_ones_continued(generator, prompts):
    short, long, other = (
        [answer for row in generate(generator, prompts, [Sampling(max_new_tokens=most, seed=seed)]) for answer in row]
        for most, seed in ((4, 0), (12, 0), (12, 1))
    )
    assert [answer.ids[:4] for answer in long] == [answer.ids for answer in short]
    assert sum(one != another for one, another in zip(long, other)) >= 8


def test_a_finished_answer_has_one_end_token_and_a_cut_one_none(generator, prompts):
    answers = [answer for row in generate(generator, prompts, SIX) for answer in row]
    assert {answer.finished for answer in answers} == {True, False}
    for ids, finished in answers:
        assert not generator.ends & set(ids[:-1])
        assert (ids[-1] in generator.ends) == finished
        assert finished or len(ids) == 12


def test_end_tokens_are_those_given_and_the_models_own(model_folder, tokenizer, tmp_path):
    folder = other_checkpoint(model_folder, tokenizer, tmp_path / "two", eos_token_id=[tokenizer.eos_token_id, 9])
    generator = Generator()
    generator.load(model_folder, [5], precision="fp32")
    assert generator.ends == {5, tokenizer.eos_token_id}
    generator.load(folder, [5, 6], precision="fp32")  # the same config.json, so only generation_config.json differs
    assert generator.ends == {5, 6, 9, tokenizer.eos_token_id}


def test_end_ids_hold_the_token_that_the_template_closes_with(model_folder):
    """As Llama 3: EOS is another token than the one after a turn."""
    tokenizer = load_tokenizer(model_folder)
    closing = tokenizer.eos_token_id
    assert end_ids_of(tokenizer) == [closing]
    tokenizer.eos_token = tokenizer.pad_token
    assert end_ids_of(tokenizer) == sorted([closing, tokenizer.pad_token_id])


def test_an_adapter_folder_answers_with_its_adapters(generator, prompts, ends, model_folder, tokenizer, tmp_path):
    config = replace(TrialConfig(), {"lora_rank": 4})
    model: Any = load_model(model_folder, config=config)
    torch.manual_seed(11)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, tokenizer, tmp_path)
    assert (tmp_path / "adapter_config.json").is_file() and not (tmp_path / "config.json").is_file()
    before = generate(generator, prompts, [GREEDY])
    generator.load(tmp_path, ends, precision="fp32")
    adapted = generate(generator, prompts, [GREEDY])
    assert adapted == greedy_by_transformers(model.merge_and_unload(), prompts, generator.ends) != before
    generator.load(model_folder, ends, precision="fp32")
    assert generate(generator, prompts, [GREEDY]) == before


def test_the_next_checkpoint_answers_as_if_loaded_alone(generator, prompts, ends, model_folder, tokenizer, tmp_path):
    before, model = generate(generator, prompts, SIX), generator.warm.model
    folder = other_checkpoint(model_folder, tokenizer, tmp_path)
    alone = Generator()
    alone.load(folder, ends, precision="fp32")
    generator.load(folder, ends, precision="fp32")
    assert generator.warm.model is model  # exchanged in place
    assert generate(generator, prompts, SIX) == generate(alone, prompts, SIX) != before


def test_fp32_after_bf16_is_not_rounded(model_folder):
    warm = WarmModel()
    assert warm.load(model_folder, "bf16").dtype == torch.bfloat16
    loaded, fresh = (
        dict(model.named_parameters()) for model in (warm.load(model_folder, "fp32"), load_model(model_folder))
    )
    assert all(torch.equal(loaded[name].cpu(), fresh[name]) for name in fresh)


@pytest.mark.parametrize("torn", ["whole", "middle", "newline"])
def test_a_killed_run_goes_on_and_ends_with_the_same_answers(generator, prompts, tmp_path, torn, monkeypatch):
    monkeypatch.setattr(generation, "TOKENS_PER_BATCH", 150)
    undisturbed = generate_to(tmp_path / "a" / "whole.jsonl", generator, "model", prompts, SIX)
    assert undisturbed == generate(generator, prompts, SIX)
    path, dying = tmp_path / "cut.jsonl", Dying(generator, batches=3)
    with pytest.raises(Killed):
        generate_to(path, dying, "model", prompts, SIX)
    kept = path.read_bytes()
    assert kept.count(b"\n") == sum(dying.made) < 54
    path.write_bytes({"whole": kept, "middle": kept[:-20], "newline": kept[:-1]}[torn])
    again = Dying(generator)
    assert generate_to(path, again, "model", prompts, SIX) == undisturbed
    assert len(dying.made) == 3 and 0 < sum(again.made) < 54
    assert path.read_bytes().startswith(kept)
    assert sorted(path.read_text().splitlines()) == sorted((tmp_path / "a" / "whole.jsonl").read_text().splitlines())


def test_stored_answers_are_not_made_again_but_for_another_model(generator, prompts, tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    first = generate_to(path, generator, "one", prompts[:2], SIX)
    generate_to(path, generator, "two", prompts[:2], SIX[:1])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 14
    assert set(lines[0]) == {"key", "ids", "finished"}

    def refuse(**arguments):
        raise AssertionError("the model was asked")

    monkeypatch.setattr(generator.warm.model, "forward", refuse)
    assert generate_to(path, generator, "one", prompts[:2], SIX) == first


def test_a_batch_that_does_not_fit_is_halved(generator, prompts, monkeypatch):
    expected = generate(generator, prompts, SIX)
    forward, rows = generator.warm.model.forward, []

    def small_memory(**arguments):
        rows.append(len(arguments["input_ids"]))
        if rows[-1] > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**arguments)

    monkeypatch.setattr(generator.warm.model, "forward", small_memory)
    memory = 5
    assert generate(generator, prompts, SIX) == expected
    assert [count for count in rows if count > memory] == [9, 27, 14, 7]  # nothing too large is tried twice
    memory = 0
    with pytest.raises(torch.OutOfMemoryError):
        generate(generator, prompts[:1], SIX)


def test_batches_hold_like_lengths_within_the_budget(prompts):
    tasks = [task for row in tasks_of(prompts, SIX) for task in row]
    batches = plan([*tasks, *tasks], 150)
    assert [task for batch in batches for task in batch] == sorted(tasks, key=lambda task: -len(task.prompt))
    assert len(batches) > 5 and all(padded_tokens(batch) <= 150 for batch in batches)
    assert all(len(batch) == 1 for batch in plan(tasks, 1))


def test_what_cannot_be_answered_is_refused(generator, prompts):
    with pytest.raises(InputError, match=r"temperature is -1.*top_p is 0.*max_new_tokens is 0"):
        Sampling(temperature=-1, top_p=0, max_new_tokens=0)
    with pytest.raises(InputError, match="exceed the 512 positions"):
        generate(generator, prompts, [Sampling(max_new_tokens=510)])
    with pytest.raises(InputError, match="no tokens"):
        generate(generator, [[]], SIX)
    assert generate(generator, [], SIX) == []
    with torch.no_grad():
        generator.warm.model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(InputError, match="diverged"):
        generate(generator, prompts, SIX)
