"""The order of the pairs, their normalisation groups, and their forward passes.

Order, groups and steps depend on the trial alone; passes depend on the machine and change only the speed.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.attention import packing_of
from mmpo_train.model.logps import Pass

Layout = Literal["shared", "packed", "padded"]
"""Layout of a pass. shared: one row without padding, each prompt once before all its completions. packed: one row
without padding, each completion after its own copy of the prompt. padded: a row for each completion, padded on the
right."""


def epoch_order(pairs: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of the pairs in an epoch (from 1), shape (N,)."""
    return np.random.default_rng([seed, epoch]).permutation(pairs)


def consecutive(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The order in pieces of `size`; the last may be smaller, and nothing is dropped."""
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

    `present` (N, K) says which completions exist. The last group may be smaller. Zeros if the objective has no
    `rewards`.
    """
    values = np.zeros_like(ref_logps)
    if rewards is not None:
        for group in consecutive(order, pairs_per_group):
            values[group] = rewards(torch.from_numpy(ref_logps[group]), torch.from_numpy(present[group])).numpy()
    return values


def plan_passes(
    table: TokenTable,
    pairs: Sequence[int] | np.ndarray,
    tokens_per_pass: int,
    workers: int = 1,
    layout: Layout = "padded",
) -> list[np.ndarray]:
    """Some prompts of a table in passes of at most `tokens_per_pass` tokens each, a multiple of `workers` passes.

    Worker w takes passes w, w + workers, …; passes that run at the same time have similar sizes, so that all workers
    finish together. A pass has at least one prompt; if there are fewer prompts than workers, empty passes are added.
    Padding counts as tokens.
    """
    pairs = np.asarray(pairs)
    if layout == "padded":
        return _padded_passes(table, pairs, tokens_per_pass, workers)
    return _even_passes(tokens_in(table, layout)[pairs], pairs, tokens_per_pass, workers)


def tokens_in(table: TokenTable, layout: Layout) -> np.ndarray:
    """Tokens that each prompt of a table takes in a packed row, shape (N,)."""
    repeated = [(len(row) - 1) * len(prompt) for prompt, row in zip(table.prompts, table.completions, strict=True)]
    return table.together + (np.array(repeated, dtype=np.int64) if layout == "packed" else 0)


def _even_passes(tokens: np.ndarray, pairs: np.ndarray, tokens_per_pass: int, workers: int) -> list[np.ndarray]:
    """The fewest passes that fit, with nearly equal sums, largest first. Prompts go, longest first, to the emptiest."""
    longest_first = np.argsort(-tokens, kind="stable")
    count = -(-int(tokens.sum()) // tokens_per_pass)
    while True:
        count = max(1, -(-count // workers)) * workers
        passes: list[list[int]] = [[] for _ in range(count)]
        emptiest = [(0, number) for number in range(count)]
        for place in longest_first:
            filled, number = emptiest[0]
            heapq.heapreplace(emptiest, (filled + int(tokens[place]), number))
            passes[number].append(int(place))
        loads = [int(tokens[some].sum()) for some in passes]
        if all(load <= tokens_per_pass or len(some) == 1 for load, some in zip(loads, passes, strict=True)):
            order = sorted(range(count), key=lambda number: -loads[number])
            return [pairs[passes[number]] for number in order]
        count += workers


def _padded_passes(table: TokenTable, pairs: np.ndarray, tokens_per_pass: int, workers: int) -> list[np.ndarray]:
    """Passes of prompts in order of length, longest first, so that the rows of a pass have similar lengths."""
    row_tokens, rows = table.longest, np.array(list(map(len, table.completions)))
    longest_first = pairs[np.argsort(-row_tokens[pairs], kind="stable")]
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


def collate(table: TokenTable, pairs: np.ndarray, layout: Layout = "padded") -> Pass:
    """The completions of some prompts as one pass: those of the first prompt, then those of the second, …"""
    return _padded_rows(table, pairs) if layout == "padded" else _packed_row(table, pairs, layout == "shared")


def _padded_rows(table: TokenTable, pairs: np.ndarray) -> Pass:
    examples = [(table.prompts[pair], ids) for pair in pairs for ids in table.completions[pair]]
    input_ids = np.zeros((len(examples), max(len(prompt) + len(ids) for prompt, ids in examples)), dtype=np.int64)
    for target, (prompt, ids) in zip(input_ids, examples, strict=True):
        target[: len(prompt)] = prompt
        target[len(prompt) : len(prompt) + len(ids)] = ids
    # The first token is predicted by the prompt's last one, each other by the one before it.
    first = [row * input_ids.shape[1] + len(prompt) - 1 for row, (prompt, _) in enumerate(examples)]
    places = [np.arange(start, start + len(ids)) for start, (_, ids) in zip(first, examples, strict=True)]
    return _pass(torch.from_numpy(input_ids), places, [ids for _, ids in examples], len(pairs))


def _packed_row(table: TokenTable, pairs: np.ndarray, share_prompts: bool) -> Pass:
    pieces: list[np.ndarray] = []
    counted: list[np.ndarray] = []
    spans: list[tuple[int, int, int, int]] = []
    places: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    end = 0
    for pair in pairs:
        prompt = table.prompts[pair]
        for number, ids in enumerate(table.completions[pair]):
            if number == 0 or not share_prompts:
                prompt_place = len(pieces)
                spans.append((prompt_place, prompt_place + 2, 0, 0))
                pieces.append(prompt)
                counted.append(np.arange(len(prompt)))
                end += len(prompt)
                prompt_end = end
            else:
                spans.append((len(pieces), len(pieces) + 1, prompt_place, prompt_place + 1))
            pieces.append(ids)
            # Positions of a completion continue those of its prompt, whose last token predicts its first.
            counted.append(np.arange(len(prompt), len(prompt) + len(ids)))
            places.append(np.concatenate([[prompt_end - 1], np.arange(end, end + len(ids) - 1)]))
            targets.append(ids)
            end += len(ids)
    packing, positions = packing_of([len(piece) for piece in pieces], spans), _flat(counted).unsqueeze(0)
    one = _pass(_flat(pieces).unsqueeze(0), places, targets, len(pairs))
    return one._replace(position_ids=positions, packing=packing)


def _pass(input_ids: Tensor, places: list[np.ndarray], targets: list[np.ndarray], prompts: int) -> Pass:
    """A pass from each completion's places and targets."""
    completions = torch.from_numpy(np.repeat(np.arange(len(targets)), [len(ids) for ids in targets]))
    return Pass(input_ids, _flat(places), _flat(targets), completions, len(targets), prompts)


def _flat(pieces: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64))
