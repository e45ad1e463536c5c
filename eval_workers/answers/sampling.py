"""How an answer is sampled: settings, random numbers, batches and tokens."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmpo_train.config import digest_of
from mmpo_train.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one answer is sampled. Of the model's generation_config.json only the end tokens are used."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Sample from the fewest tokens whose probabilities at this temperature add up to at least this."""
    max_new_tokens: int = 512
    """Longest answer in tokens, its end token included."""
    seed: int = 0
    """Seed of the answers."""

    def __post_init__(self) -> None:
        wrong = []
        if not 0 <= self.temperature < math.inf:
            wrong.append(f"temperature is {self.temperature}, expected 0 or more")
        if not 0 < self.top_p <= 1:
            wrong.append(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if self.max_new_tokens < 1:
            wrong.append(f"max_new_tokens is {self.max_new_tokens}, expected 1 or more")
        if wrong:
            raise InputError("; ".join(wrong))


class Answer(NamedTuple):
    """One completion."""

    ids: list[int]
    """Token ids. The last is an end token if `finished`; otherwise there is no end token."""
    finished: bool
    """False if the answer was cut at max_new_tokens."""


class Task(NamedTuple):
    """One answer to sample. Its random numbers depend on the task alone, not on the rest of the batch."""

    prompt: tuple[int, ...]
    sampling: Sampling
    number: int
    """Number of the answer among those of the same prompt and sampling, from 0."""

    @property
    def most_tokens(self) -> int:
        """Most tokens that prompt and completion can have."""
        return len(self.prompt) + self.sampling.max_new_tokens

    @property
    def stream(self) -> str:
        """Name of its sequence of random numbers. A larger max_new_tokens continues the same sequence."""
        sampling = self.sampling
        return digest_of([*map(float, (sampling.temperature, sampling.top_p)), sampling.seed, self.number, self.prompt])

    def uniforms(self) -> np.ndarray:
        """A random number in [0, 1) for each token, (max_new_tokens,), float64."""
        return np.random.Generator(np.random.Philox(key=int(self.stream, 16))).random(self.sampling.max_new_tokens)


def tasks_of(prompts: Iterable[Sequence[int]], samplings: Sequence[Sampling]) -> list[list[Task]]:
    """The tasks of each prompt, one per sampling; equal samplings are numbered."""
    seen: Counter[Sampling] = Counter()
    numbered = []
    for sampling in samplings:
        numbered.append((sampling, seen[sampling]))
        seen[sampling] += 1
    return [[Task(prompt, *one) for one in numbered] for prompt in (tuple(map(int, ids)) for ids in prompts)]


def all_ends(given: Iterable[int], own: int | Sequence[int] | None) -> frozenset[int]:
    """The end tokens that are given, and those of a model's own settings."""
    return frozenset([*given, *np.atleast_1d([] if own is None else own).tolist()])


def check_fits(tasks: Sequence[Task], positions: float, model: Path) -> None:
    """Raises InputError if a prompt is empty or does not fit with its answer in the model's positions."""
    if any(not task.prompt for task in tasks):
        raise InputError("a prompt has no tokens; render it with its chat template, with the generation prompt")
    longest = max(tasks, key=lambda task: task.most_tokens, default=None)
    if longest and longest.most_tokens > positions:
        raise InputError(
            f"a prompt of {len(longest.prompt)} tokens and max_new_tokens {longest.sampling.max_new_tokens} exceed the "
            f"{positions} positions of {model}; lower max_new_tokens or cut the prompts from the left"
        )


def plan(tasks: Iterable[Task], tokens_per_batch: int) -> list[list[Task]]:
    """The distinct tasks in batches of at most `tokens_per_batch` padded tokens, each with at least one task. Longest
    prompts first, so that a batch that does not fit in memory is found early."""
    batches: list[list[Task]] = []
    most = 0
    for task in sorted(dict.fromkeys(tasks), key=lambda task: -len(task.prompt)):
        most = max(most, task.sampling.max_new_tokens)
        if batches and (len(batches[-1]) + 1) * (len(batches[-1][0].prompt) + most) <= tokens_per_batch:
            batches[-1].append(task)
        else:
            batches.append([task])
            most = task.sampling.max_new_tokens
    return batches


def padded_tokens(batch: Sequence[Task]) -> int:
    """Tokens whose keys and values are held at the end of a batch in which no row ends early."""
    longest = max(len(task.prompt) for task in batch)
    return len(batch) * (longest + max(task.sampling.max_new_tokens for task in batch))


def draw(logits: Tensor, temperature: Tensor, top_p: Tensor, uniforms: Tensor) -> Tensor:
    """A token for each row, (R,): the first whose cumulative probability exceeds the row's random number. Logits have
    shape (R, V), the others (R,). A row needs one random number, whatever the size of the vocabulary."""
    greedy = temperature == 0
    probabilities = (logits.float() / temperature.where(~greedy, 1)[:, None]).softmax(-1)
    if bool((top_p < 1).any()):
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        cut = top_p.where(top_p < 1, math.inf)  # rounding must not cut anything from a row that wants all
        ordered[ordered.cumsum(-1) - ordered >= cut[:, None]] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    cumulative = probabilities.double().cumsum(-1)  # fp32 would lose the rare tokens of 128k
    total = cumulative[:, -1:]
    aimed = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, aimed, right=True)[:, 0]
    return logits.argmax(-1).where(greedy, drawn)
