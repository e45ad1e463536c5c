"""Scoring completions without gradient, for the reference store, validation, the evaluator and negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.batches import Layout, collate, plan_passes
from mmpo_train.model.layouts import is_out_of_memory
from mmpo_train.model.logps import CompletionLogps, Forward, Pass
from mmpo_train.model.precision import round_weights


@dataclass(frozen=True)
class ScoredTable:
    """Prompts and completions with reference log-probabilities, (N, K), fp32, 0 for a missing completion."""

    table: TokenTable
    ref_logps: np.ndarray

    def take(self, pairs: np.ndarray, columns: np.ndarray) -> ScoredTable:
        """Some prompts with some of their completions: `columns` (len(pairs), M), -1 for none."""
        logps = np.take_along_axis(self.ref_logps[pairs], np.maximum(columns, 0), axis=1)
        return ScoredTable(self.table.take(pairs, columns), np.where(columns >= 0, logps, np.float32(0)))


def score_pairs(
    forward: Forward,
    table: TokenTable,
    pairs: Sequence[int] | np.ndarray,
    tokens_per_pass: int,
    worker: int = 0,
    workers: int = 1,
    *,
    layout: Layout = "padded",
) -> np.ndarray:
    """Log-probabilities of the prompts' completions, (len(pairs), K), fp32, in nats; 0 for a missing completion.

    Each of several workers scores its share and leaves zeros elsewhere, so that the sum over workers is complete; all
    run the same number of passes. A single worker halves passes that do not fit in memory.
    """
    waiting = np.asarray(pairs)
    place = {int(pair): index for index, pair in enumerate(waiting)}
    scores = np.zeros((len(place), table.most_completions), dtype=np.float32)
    while len(waiting):
        done = []
        for some in plan_passes(table, waiting, tokens_per_pass, workers, layout)[worker::workers]:
            logps = _logps_if_they_fit(forward, collate(table, some if len(some) else waiting[:1], layout), workers)
            if logps is None:
                tokens_per_pass = max(1, tokens_per_pass // 2)
                break
            if len(some):
                counts = [len(table.completions[pair]) for pair in some]
                rows = np.repeat([place[int(pair)] for pair in some], counts)
                scores[rows, np.concatenate([np.arange(count) for count in counts])] = logps
            done.append(some)
        else:
            break
        waiting = np.setdiff1d(waiting, np.concatenate([waiting[:0], *done]))
    return scores


def _logps_if_they_fit(forward: Forward, one: Pass, workers: int) -> np.ndarray | None:
    """A pass's log-probabilities; None if memory ran out and a smaller pass can be tried."""
    try:
        with torch.no_grad():
            return forward(one).cpu().numpy()
    except RuntimeError as error:
        if not is_out_of_memory(error) or workers > 1 or one.prompt_count == 1:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def model_forward(module: CompletionLogps, device: torch.device, precision: str) -> Forward:
    """The module as a plain function of a pass, moved to its device and precision. bf16 means bf16 weights, as in
    DeepSpeed's engine, so that the log-ratios of an untrained policy are 0."""
    module = module.to(device)
    round_weights(module, precision)
    return lambda one: module(one.to(device))
