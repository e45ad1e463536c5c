"""What MC-PO's look at the candidates costs: prompts shared among them against a row for each.

    python benchmarks/candidates.py                 one prompt of 200 tokens with six completions of 60, 16 times

The ways take turns; the table shows medians over the rounds, and a whole training step of one pair a prompt beside
them. Both give the same log-probabilities, or the run is refused.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from random_llama import random_llama

from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.batches import collate
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.scoring import score_pairs


def random_table(
    prompts: int, prompt_tokens: int, candidates: int, completion_tokens: int, vocabulary: int
) -> TokenTable:
    """Prompts of half to one and a half times the tokens, likewise their completions."""
    random = np.random.default_rng(0)

    def ids(tokens: int) -> np.ndarray:
        return random.integers(0, vocabulary, random.integers(tokens // 2, tokens * 3 // 2)).astype(np.int32)

    return TokenTable(
        tuple(ids(prompt_tokens) for _ in range(prompts)),
        tuple(tuple(ids(completion_tokens) for _ in range(candidates)) for _ in range(prompts)),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("prompts", 16),
        ("prompt-tokens", 200),
        ("candidates", 6),
        ("completion-tokens", 60),
        ("width", 192),
        ("layers", 4),
        ("vocabulary", 8192),
        ("tokens-per-pass", 4096),
        ("rounds", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = CompletionLogps(random_llama(given.width, given.layers, given.vocabulary)).to(device)
    table = random_table(
        given.prompts, given.prompt_tokens, given.candidates, given.completion_tokens, given.vocabulary
    )
    everything, pair = np.arange(given.prompts), np.zeros((given.prompts, 2), dtype=np.int64)
    pair[:, 1] = 1
    pairs = table.take(everything, pair)

    def scored(share_prompts: bool) -> np.ndarray:
        return score_pairs(
            lambda one: module(one.to(device)), table, everything, given.tokens_per_pass, share_prompts=share_prompts
        )

    def trained() -> None:
        for start in range(0, given.prompts, 4):
            some = everything[start : start + 4]
            module(collate(pairs, some).to(device)).sum().backward()
        module.zero_grad()

    difference = np.abs(scored(True) - scored(False)).max()
    assert difference < 1e-2, f"log-probabilities differ by {difference}"
    ways: dict[str, Callable[[], object]] = {
        "candidates, prompts shared": lambda: scored(True),
        "candidates, a row each": lambda: scored(False),
        "forward and backward of a pair each": trained,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["candidates, prompts shared"])
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, largest difference {difference:.1e}"
    )
    for name, times in seconds.items():
        print(f"{name:38} {statistics.median(times):8.3f} s   {statistics.median(times) / base:5.2f} x")


if __name__ == "__main__":
    main()
