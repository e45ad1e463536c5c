"""Scoring completions without gradient: for the reference store, for validation, for the evaluator, for negatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmpo_train.batches import collate, plan_table
from mmpo_train.logps import CompletionLogps, Pass
from mmpo_train.tokens import TokenTable


@dataclass(frozen=True)
class ScoredTable:
    """Prompts and completions with their reference log-probabilities, (N, K), fp32, 0 where there is no completion."""

    table: TokenTable
    ref_logps: np.ndarray

    def take(self, pairs: np.ndarray, columns: np.ndarray) -> ScoredTable:
        """Some prompts with some of their completions: `columns` (len(pairs), M), -1 for none."""
        logps = np.take_along_axis(self.ref_logps[pairs], np.maximum(columns, 0), axis=1)
        return ScoredTable(self.table.take(pairs, columns), np.where(columns >= 0, logps, np.float32(0)))


def score_pairs(
    forward: Callable[[Pass], torch.Tensor],
    table: TokenTable,
    pairs: Sequence[int] | np.ndarray,
    tokens_per_pass: int,
    worker: int = 0,
    workers: int = 1,
    *,
    share_prompts: bool = False,
) -> np.ndarray:
    """Log-probabilities of the prompts' completions, shape (len(pairs), K), fp32, in nats; 0 where there is none.

    With several workers each scores its share and leaves zeros elsewhere, so that the sum over workers is the whole.
    All of them run the same number of passes.
    """
    place = {int(pair): index for index, pair in enumerate(pairs)}
    scores = np.zeros((len(place), table.most_completions), dtype=np.float32)
    plan = plan_table(table, pairs, tokens_per_pass, workers, share_prompts=share_prompts)
    with torch.no_grad():
        for some in plan[worker::workers]:
            shown = some if len(some) else np.asarray(pairs[:1])
            logps = forward(collate(table, shown, share_prompts=share_prompts)).cpu().numpy()
            if len(some):
                counts = [len(table.completions[pair]) for pair in some]
                rows = np.repeat([place[int(pair)] for pair in some], counts)
                scores[rows, np.concatenate([np.arange(count) for count in counts])] = logps
    return scores


def prompts_can_be_shared(forward: Callable[[Pass], torch.Tensor], table: TokenTable, bf16: bool) -> bool:
    """Whether this model gives completions behind one prompt the log-probabilities they have alone, by trying.

    It does not where positions or masks are not plain causal attention's: ALiBi, sliding windows, state spaces.
    """
    longest = int(np.argmax(table.together))
    with torch.no_grad():
        alone = forward(collate(table, np.array([longest]))).float().cpu()
        try:
            shared = forward(collate(table, np.array([longest]), share_prompts=True)).float().cpu()
        except (TypeError, ValueError, RuntimeError, IndexError):  # a model that takes no positions or no such mask
            return False
    tolerance = 2e-2 if bf16 else 1e-4
    return bool(torch.allclose(alone, shared, rtol=tolerance, atol=tolerance))


def model_forward(module: CompletionLogps, device: torch.device, precision: str) -> Callable[[Pass], torch.Tensor]:
    """The module as a plain function of a pass, moved to its device and precision.

    bf16 means bf16 weights, as in DeepSpeed's engine, so that log-ratios of an untrained policy are 0.
    """
    module = module.to(device)
    for parameter in module.parameters():
        # Not the buffers, nor does DeepSpeed: rotary frequencies rounded to bf16 are other positions.
        parameter.data = parameter.data.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return lambda one: module(one.to(device))
