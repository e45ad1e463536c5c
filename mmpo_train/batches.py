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
    ref_logps: np.ndarray,
    present: np.ndarray,
    order: np.ndarray,
    pairs_per_group: int,
    rewards: Callable[[Tensor, Tensor], Tensor] | None,
) -> np.ndarray:
    """The objective's constants of every completion, (N, K), computed over groups of consecutive prompts of `order`.

    `present` (N, K) says which completions there are. The last group may be partial: its extremes are those of the
    prompts really there. Zeros without a `rewards`.
    """
    values = np.zeros_like(ref_logps)
    if rewards is not None:
        for group in consecutive(order, pairs_per_group):
            values[group] = rewards(torch.from_numpy(ref_logps[group]), torch.from_numpy(present[group])).numpy()
    return values


def plan_passes(
    pairs: Sequence[int] | np.ndarray,
    row_tokens: np.ndarray,
    rows: np.ndarray,
    tokens_per_pass: int,
    workers: int = 1,
) -> list[np.ndarray]:
    """The prompts of one step in passes of at most `tokens_per_pass` padded tokens, a multiple of `workers` of them.

    `row_tokens` and `rows` (N,) say how long a prompt's longest row is and how many rows it has. Longest first, so
    that a pass holds rows of like length and worker w can take passes w, w + workers, … with about equal work. A pass
    always holds at least one prompt; where there are fewer prompts than workers, empty passes fill up.
    """
    longest_first = np.asarray(pairs)[np.argsort(-row_tokens[np.asarray(pairs)], kind="stable")]
    passes: list[np.ndarray] = []
    start = 0
    while start < len(longest_first):
        fits = np.cumsum(rows[longest_first[start:]]) * row_tokens[longest_first[start]] <= tokens_per_pass
        size = max(1, int(fits.sum()))
        passes.append(longest_first[start : start + size])
        start += size
    while len(passes) % workers and max(map(len, passes)) > 1:
        largest = max(range(len(passes)), key=lambda index: len(passes[index]))
        middle = (len(passes[largest]) + 1) // 2
        passes[largest : largest + 1] = [passes[largest][:middle], passes[largest][middle:]]
    while len(passes) % workers:
        passes.append(longest_first[:0])
    return passes


def plan_table(
    table: TokenTable,
    pairs: Sequence[int] | np.ndarray,
    tokens_per_pass: int,
    workers: int = 1,
    *,
    share_prompts: bool = False,
) -> list[np.ndarray]:
    """`plan_passes` of some prompts of a table, in the layout that `collate` will give them."""
    if share_prompts:
        return plan_passes(pairs, table.together, np.ones(len(table), dtype=np.int64), tokens_per_pass, workers)
    return plan_passes(pairs, table.longest, np.array(list(map(len, table.completions))), tokens_per_pass, workers)


def collate(table: TokenTable, pairs: np.ndarray, *, share_prompts: bool = False) -> Pass:
    """The completions of some prompts as one pass: all of the first prompt, then all of the second, …

    A row for each completion, or with `share_prompts` one for each prompt, which is then computed once.
    """
    rows: list[list[np.ndarray]] = []  # the pieces of each row, a prompt first
    scored: list[tuple[int, int, int, np.ndarray]] = []  # row, place of the prompt's end, of the completion, its ids
    for pair in pairs:
        prompt = table.prompts[pair]
        for number, ids in enumerate(table.completions[pair]):
            if number == 0 or not share_prompts:
                rows.append([prompt])
            scored.append((len(rows) - 1, len(prompt) - 1, sum(map(len, rows[-1])), ids))
            rows[-1].append(ids)
    input_ids = _padded([np.concatenate(row) for row in rows], 0)
    row, positions, completion = [], [], []
    for number, (place, prompt_end, start, ids) in enumerate(scored):
        row.append(np.full(len(ids), place))
        # The first token is predicted by the prompt's last one, each other by the one before it.
        positions.append(np.concatenate([[prompt_end], np.arange(start, start + len(ids) - 1)]))
        completion.append(np.full(len(ids), number))
    targets = [ids.astype(np.int64) for *_, ids in scored]
    flat = [torch.from_numpy(np.concatenate(part)) for part in (row, positions, targets, completion)]
    one = Pass(torch.from_numpy(input_ids), flat[0], flat[1], flat[2], flat[3], len(scored))
    if not share_prompts:
        return one
    segments = [np.concatenate([np.full(len(piece), number) for number, piece in enumerate(row)]) for row in rows]
    after = [np.concatenate([np.arange(len(p)) + (i > 0) * len(row[0]) for i, p in enumerate(row)]) for row in rows]
    return one._replace(
        segments=torch.from_numpy(_padded(segments, -1)), position_ids=torch.from_numpy(_padded(after, 0))
    )


def _padded(rows: list[np.ndarray], filler: int) -> np.ndarray:
    """(R, L) with every row filled up on the right."""
    whole = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for target, row in zip(whole, rows, strict=True):
        target[: len(row)] = row
    return whole
