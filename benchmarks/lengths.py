"""Preference pairs of random tokens, with lengths as in UltraFeedback."""

import math

import numpy as np

from mmpo_train.data.tokens import TokenTable

MAX_PROMPT_TOKENS, MAX_COMPLETION_TOKENS = 1800, 512
_MEDIAN_PROMPT, _PROMPT_SPREAD = 110, 1.0
_MEDIAN_COMPLETIONS, _COMPLETION_SPREAD = (280, 260), 0.6
# The two answers to a prompt are of like length: a question about a date has two short ones.
_CORRELATION = 0.5
FIRST_ID = 2
"""Smaller token ids are left for padding and end."""


def preference_table(pairs: int, vocabulary: int, scale: float = 1.0, seed: int = 0) -> TokenTable:
    """Prompts with a chosen and a rejected completion each, all lengths multiplied by `scale`.

    Log-normal lengths: prompts of 110 tokens in the median with a long tail, cut at 1800; completions of 280 (chosen)
    and 260 (rejected), cut at 512, about 300 in the mean. Chosen and rejected completions prefer different
    tokens, so that there is something to learn and losses move.
    """
    random = np.random.default_rng(seed)

    def lengths(median: float, spread: float, longest: int, normal: np.ndarray) -> np.ndarray:
        cut = np.minimum(median * np.exp(spread * normal), longest)
        return np.maximum(np.rint(scale * cut), 2).astype(np.int64)

    def ids(tokens: int, skew: float) -> np.ndarray:
        drawn = (random.random(tokens) ** skew) * (vocabulary - FIRST_ID)
        return (FIRST_ID + drawn).astype(np.int32)

    prompts = lengths(_MEDIAN_PROMPT, _PROMPT_SPREAD, MAX_PROMPT_TOKENS, random.standard_normal(pairs))
    common = random.standard_normal(pairs)
    completions = []
    for median in _MEDIAN_COMPLETIONS:
        own = math.sqrt(_CORRELATION) * common + math.sqrt(1 - _CORRELATION) * random.standard_normal(pairs)
        completions.append(lengths(median, _COMPLETION_SPREAD, MAX_COMPLETION_TOKENS, own))
    return TokenTable(
        tuple(ids(tokens, 1.0) for tokens in prompts),
        tuple((ids(chosen, 1.0), ids(rejected, 1.1)) for chosen, rejected in zip(*completions, strict=True)),
    )
