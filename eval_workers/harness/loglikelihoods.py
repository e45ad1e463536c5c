"""Log-likelihoods of (context, continuation) pairs. Equal contexts are computed once; passes adapt their size."""

from collections.abc import Sequence

import numpy as np
import torch

from mmpo_train.data.tokens import TokenTable
from mmpo_train.errors import InputError
from mmpo_train.model.layouts import best_layout
from mmpo_train.model.logps import Forward
from mmpo_train.model.scoring import score_pairs

# Tokens of the first passes; a pass that does not fit is halved. Contexts are short, and a pass costs more than a row.
_TOKENS_PER_PASS = {"cuda": 131_072, "cpu": 8_192}


class Requests:
    """(context, continuation) token ids, grouped by context, to score with one model after the other."""

    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], positions: int) -> None:
        """Contexts are cut on the left to the model's `positions`, as in lm-eval. Raises InputError if a continuation
        by itself does not fit."""
        rows: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self.places: list[tuple[int, int]] = []
        number_of: dict[tuple[int, ...], int] = {}
        for context, continuation in pairs:
            assert context and continuation
            if len(continuation) > positions:
                raise InputError(
                    f"an option of {len(continuation)} tokens does not fit into the model's {positions} positions; "
                    "leave out its task"
                )
            # The last token is predicted, never read: positions + 1 tokens fit.
            kept = tuple(context[-(positions + 1 - len(continuation)) :])
            number = number_of.setdefault(kept, len(number_of))
            options = rows.setdefault(kept, [])
            self.places.append((number, len(options)))
            options.append(tuple(continuation))
        self.table = TokenTable(
            tuple(np.array(context, dtype=np.int32) for context in rows),
            tuple(tuple(np.array(one, dtype=np.int32) for one in options) for options in rows.values()),
        )

    def score(self, forward: Forward, device: torch.device, precision: str) -> list[float]:
        """The log-likelihood of each pair, in nats, in their order. Raises InputError if the model gives values that
        are not numbers."""
        layout = best_layout(forward, self.table, precision)
        scores = score_pairs(
            forward, self.table, np.arange(len(self.table)), _TOKENS_PER_PASS[device.type], layout=layout
        ).astype(np.float64)
        if not np.isfinite(scores).all():
            raise InputError("the model gives log-likelihoods that are not numbers; its training diverged")
        rows, columns = zip(*self.places, strict=True)
        return scores[list(rows), list(columns)].tolist()
