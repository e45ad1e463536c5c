"""Scoring pairs without gradient: for the reference store, for validation and for the evaluator alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mmpo_train.batches import collate, plan_passes
from mmpo_train.logps import CompletionLogps, Pass
from mmpo_train.tokens import TokenTable


def score_pairs(
    forward: Callable[[Pass], torch.Tensor],
    table: TokenTable,
    pairs: Sequence[int] | np.ndarray,
    tokens_per_pass: int,
    worker: int = 0,
    workers: int = 1,
) -> np.ndarray:
    """Log-probabilities of the pairs' completions, shape (len(pairs), K), fp32, in nats.

    With several workers each scores its share and leaves zeros elsewhere, so that the sum over workers is the whole.
    All of them run the same number of passes.
    """
    place = {int(pair): index for index, pair in enumerate(pairs)}
    completions = len(table.completions[0])
    scores = np.zeros((len(place), completions), dtype=np.float32)
    with torch.no_grad():
        for some in plan_passes(pairs, table.longest, completions, tokens_per_pass, workers)[worker::workers]:
            shown = some if len(some) else np.asarray(pairs[:1])
            logps = forward(collate(table, shown)).reshape(-1, completions).cpu().numpy()
            if len(some):
                scores[[place[int(pair)] for pair in some]] = logps
    return scores


def model_forward(module: CompletionLogps, device: torch.device, precision: str) -> Callable[[Pass], torch.Tensor]:
    """The module as a plain function of a pass, moved to its device and precision.

    bf16 means bf16 weights, as in DeepSpeed's engine, so that log-ratios of an untrained policy are 0.
    """
    module = module.to(device)
    for parameter in module.parameters():
        # Not the buffers, nor does DeepSpeed: rotary frequencies rounded to bf16 are other positions.
        parameter.data = parameter.data.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return lambda one: module(one.to(device))
