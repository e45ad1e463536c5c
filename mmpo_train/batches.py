"""Which pairs are seen when, in which normalisation group, and in which forward pass.

Order, groups and steps depend on the trial alone; passes depend on the machine and change nothing but speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mmpo_train.logps import Pass
from mmpo_train.tokens import TokenTable


def epoch_order(pairs: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation in which an epoch (from 1) sees the pairs, shape (N,)."""
    return np.random.default_rng([seed, epoch]).permutation(pairs)


def consecutive(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The order in pieces of `size`; the last may be smaller, nothing is dropped."""
    for start in range(0, len(order), size):
        yield order[start : start + size]


def group_rewards(
    ref_logps: np.ndarray, order: np.ndarray, pairs_per_group: int, rewards: Callable[[Tensor], Tensor] | None
) -> np.ndarray:
    """The objective's constants of every pair, (N, K), computed over groups of consecutive pairs of `order`.

    The last group may be partial: its extremes are those of the pairs really there. Zeros without a `rewards`.
    """
    values = np.zeros_like(ref_logps)
    if rewards is not None:
        for group in consecutive(order, pairs_per_group):
            values[group] = rewards(torch.from_numpy(ref_logps[group])).numpy()
    return values


def plan_passes(
    pairs: Sequence[int] | np.ndarray,
    table_lengths: np.ndarray,
    completions: int,
    tokens_per_pass: int,
    workers: int = 1,
) -> list[np.ndarray]:
    """The pairs of one step in passes of at most `tokens_per_pass` padded tokens, a multiple of `workers` of them.

    Longest first, so that a pass holds pairs of like length and worker w can take passes w, w + workers, … with
    about equal work. A pass always holds at least one pair; where there are fewer pairs than workers, empty
    passes fill up.
    """
    longest_first = np.asarray(pairs)[np.argsort(-table_lengths[np.asarray(pairs)], kind="stable")]
    passes: list[np.ndarray] = []
    start = 0
    while start < len(longest_first):
        per_pair = int(table_lengths[longest_first[start]]) * completions
        size = max(1, tokens_per_pass // per_pair)
        passes.append(longest_first[start : start + size])
        start += size
    while len(passes) % workers and max(map(len, passes)) > 1:
        largest = max(range(len(passes)), key=lambda index: len(passes[index]))
        middle = (len(passes[largest]) + 1) // 2
        passes[largest : largest + 1] = [passes[largest][:middle], passes[largest][middle:]]
    while len(passes) % workers:
        passes.append(longest_first[:0])
    return passes


def collate(table: TokenTable, pairs: np.ndarray) -> Pass:
    """The sequences of some pairs as one pass: pair 0's K completions first, then pair 1's, …"""
    sequences = [(table.prompts[pair], ids) for pair in pairs for ids in table.completions[pair]]
    length = max(len(prompt) + len(ids) for prompt, ids in sequences)
    input_ids = np.zeros((len(sequences), length), dtype=np.int64)
    rows, positions = [], []
    for row, (prompt, ids) in enumerate(sequences):
        end = len(prompt) + len(ids)
        input_ids[row, : len(prompt)], input_ids[row, len(prompt) : end] = prompt, ids
        rows.append(np.full(len(ids), row))
        positions.append(np.arange(len(prompt) - 1, end - 1))
    targets = np.concatenate([ids for _, ids in sequences]).astype(np.int64)
    parts = (input_ids, np.concatenate(rows), np.concatenate(positions), targets)
    return Pass(*(torch.from_numpy(part) for part in parts))
