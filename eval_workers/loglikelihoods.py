"""Log-likelihoods of (context, continuation) pairs: equal contexts are computed once, passes find their own size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmpo_train.batches import collate, plan_table
from mmpo_train.errors import InputError
from mmpo_train.logps import Pass
from mmpo_train.scoring import prompts_can_be_shared
from mmpo_train.tokens import TokenTable

# Padded tokens of the first passes tried; what does not fit is halved.
_TOKENS_PER_PASS = {"cuda": 131_072, "cpu": 8_192}

Forward = Callable[[Pass], Tensor]


class Requests:
    """(context, continuation) token ids, grouped by context, to be scored by one model after the other."""

    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], positions: int) -> None:
        """Contexts are cut from the left to the model's `positions`, as lm-eval cuts them.

        Raises InputError where a continuation alone does not fit.
        """
        rows: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self.places: list[tuple[int, int]] = []
        number_of: dict[tuple[int, ...], int] = {}
        for context, continuation in pairs:
            assert context and continuation
            if len(continuation) > positions:
                raise InputError(
                    f"an option of {len(continuation)} tokens does not fit into the model's {positions} positions; "
                    "leave its task out"
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
        self.tokens_per_pass: int | None = None

    def score(self, forward: Forward, device: torch.device, precision: str) -> list[float]:
        """The log-likelihood of each pair, in nats, in their order.

        A pass that does not fit into memory halves the passes from there on, for later models too. Raises InputError
        where the model gives numbers that are none.
        """
        shared = prompts_can_be_shared(forward, self.table, precision == "bf16")
        scores = np.zeros((len(self.table), self.table.most_completions))
        waiting = np.arange(len(self.table))
        while len(waiting):
            budget = self.tokens_per_pass or _TOKENS_PER_PASS[device.type]
            done = []
            for some in plan_table(self.table, waiting, budget, share_prompts=shared):
                logps = self._one_pass(forward, some, shared)
                if logps is None:
                    self.tokens_per_pass = max(1, budget // 2)
                    break
                counts = [len(self.table.completions[row]) for row in some]
                scores[np.repeat(some, counts), np.concatenate([np.arange(count) for count in counts])] = logps
                done.append(some)
            if done:
                waiting = np.setdiff1d(waiting, np.concatenate(done))
            if device.type == "cuda" and len(waiting):
                torch.cuda.empty_cache()
        if not np.isfinite(scores).all():
            raise InputError("the model gives log-likelihoods that are no numbers; its training diverged")
        rows, columns = zip(*self.places, strict=True)
        return scores[list(rows), list(columns)].tolist()

    def _one_pass(self, forward: Forward, some: np.ndarray, shared: bool) -> np.ndarray | None:
        """The rows' log-likelihoods; None where there is not enough memory for them and there are several."""
        try:
            with torch.no_grad():
                return forward(collate(self.table, some, share_prompts=shared)).double().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(some) == 1:
                raise
            return None
