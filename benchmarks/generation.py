"""Throughput of eval_workers/answers/generation.py against transformers' generate.

    python benchmarks/generation.py                                     a random Llama of the size given
    python benchmarks/generation.py --model runs/models/tiny-…          a model that ends its answers itself

Six answers a prompt, two at each of three temperatures. The ways take turns; the table shows medians over the rounds.
Each has drawn its own answers, so completion tokens per second are compared.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from random_llama import random_llama

from eval_workers.answers.generation import Generator
from eval_workers.answers.sampling import Sampling, plan, tasks_of
from mmpo_train.model.policy import load_tokenizer

TEMPERATURES = (0.6, 0.8, 1.0)
ANSWERS_EACH = 2


def questions(folder: Path, number: int) -> tuple[list[list[int]], list[int]]:
    """Prompts of tiny's validation questions as the folder's tokenizer renders them, and its end tokens."""
    from mmpo_train.chat.messages import Message
    from mmpo_train.data.rendering import end_ids_of, render
    from mmpo_train.tiny import rows as tiny

    tokenizer = load_tokenizer(folder)
    texts = [
        render(tokenizer, [Message("user", row["prompt"])], add_generation_prompt=True)
        for row in tiny.preference_examples("validation")[:number]
    ]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts], end_ids_of(tokenizer)


def random_prompts(vocabulary: int, number: int) -> tuple[list[list[int]], list[int]]:
    """Prompts of 16 to 256 random tokens, and so many end tokens that an answer has about 48 tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(16, 257, size=number)
    ends = list(range(max(1, vocabulary // 48)))
    return [random.integers(len(ends), vocabulary, size=length).tolist() for length in lengths], ends


def by_transformers(
    model: torch.nn.Module, prompts: list[list[int]], ends: list[int], rows: int, max_new_tokens: int
) -> int:
    """Completion tokens that `generate` has drawn, prompts in the order given, at most `rows` rows at a time."""
    device = next(model.parameters()).device
    per_call = max(1, rows // ANSWERS_EACH)
    tokens = 0
    for temperature in TEMPERATURES:
        for start in range(0, len(prompts), per_call):
            some = prompts[start : start + per_call]
            width = max(map(len, some))
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in some], device=device)
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in some], device=device)
            drawn = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                num_return_sequences=ANSWERS_EACH,
                max_new_tokens=max_new_tokens,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )[:, width:]
            ended = torch.isin(drawn, torch.tensor(ends, device=device)).cumsum(1)
            tokens += int((ended == 0).sum() + (ended[:, -1] > 0).sum())
    return tokens


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder with its tokenizer; without it, a random Llama")
    parser.add_argument("--width", type=int, default=128, help="of the random Llama")
    parser.add_argument("--layers", type=int, default=4, help="of the random Llama")
    parser.add_argument("--vocabulary", type=int, default=4096, help="of the random Llama, in tokens")
    parser.add_argument("--prompts", type=int, default=8, help="how many")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch, where all are cut")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as place:
        folder = options.model or Path(place)
        if options.model:
            prompts, ends = questions(folder, options.prompts)
        else:
            random_llama(options.width, options.layers, options.vocabulary).save_pretrained(folder)
            prompts, ends = random_prompts(options.vocabulary, options.prompts)
        generator = Generator()
        generator.load(folder, ends, precision="bf16" if torch.cuda.is_available() else "fp32")
    model, ends = generator.warm.model, sorted(generator.ends)
    budget = options.rows * (max(map(len, prompts)) + options.max_new_tokens)

    def ours(seed: int) -> int:
        samplings = [
            Sampling(temperature=temperature, max_new_tokens=options.max_new_tokens, seed=seed)
            for temperature in TEMPERATURES
            for _ in range(ANSWERS_EACH)
        ]
        tasks = [task for row in tasks_of(prompts, samplings) for task in row]
        return sum(len(answer.ids) for batch in generator.run(plan(tasks, budget)) for answer in batch.values())

    ways: dict[str, Callable[[int], int]] = {
        "ours": ours,
        "generate, unsorted batches": lambda seed: by_transformers(
            model, prompts, ends, options.rows, options.max_new_tokens
        ),
        "generate, a prompt at a time": lambda seed: by_transformers(
            model, prompts, ends, ANSWERS_EACH, options.max_new_tokens
        ),
    }
    [first] = tasks_of(prompts[:1], [Sampling(max_new_tokens=4)])
    list(generator.run([first]))  # the first calls of a process are slow
    by_transformers(model, prompts[:1], ends, ANSWERS_EACH, 4)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            tokens = way(seed)
            rates[name].append(tokens / (time.perf_counter() - start))
    print(f"{len(prompts)} prompts, six answers each, at most {options.max_new_tokens} tokens; {options.rounds} rounds")
    print(f"{'':30}{'tokens/s':>10}{'ours is faster by':>20}")
    for name, rate in rates.items():
        ratio = statistics.median(ours / other for ours, other in zip(rates["ours"], rate, strict=True))
        print(f"{name:30}{statistics.median(rate):10.0f}{ratio:19.2f}x")


if __name__ == "__main__":
    main()
