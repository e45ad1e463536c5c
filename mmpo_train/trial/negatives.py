"""The choice of the dispreferred completions that a step trains on.

Random numbers are a function of the seed, the prompt's position in the data and, for draws that change, the epoch. They
are the same on any number of workers and after a resume.
"""

import numpy as np


def drawn_columns(counts: np.ndarray, negatives: int, seed: int, prompts: np.ndarray) -> np.ndarray:
    """The chosen completion and up to `negatives` random others, as columns (n, 1 + M); -1 for none.

    `counts` (n,) are the numbers of completions. The draw does not depend on the epoch, as if the data had been made
    this way (MC-PO paper, Appendix B.1). The first of several is the one that a single draw gives.
    """
    columns = _empty(counts, negatives)
    for row, count, prompt in zip(columns, counts, prompts, strict=True):
        if count == 2:
            row[1] = 1
        else:
            others = np.random.default_rng([seed, int(prompt)]).permutation(np.arange(1, count))
            row[1:] = _filled(others[:negatives], len(row) - 1)
    return columns


def weighted_columns(
    scores: np.ndarray,
    counts: np.ndarray,
    negatives: int,
    choice: str,
    seed: int,
    epoch: int,
    prompts: np.ndarray,
    chosen_is_candidate: bool = False,
) -> np.ndarray:
    """The chosen completion and up to `negatives` of the others by their weight, as columns (n, 1 + M); -1 for none.

    `scores` (n, K) are beta * r_theta of the present policy, in nats. The weights are exp(scores) over the prompt's
    dispreferred candidates, normalised (MC-PO paper, Algorithm 1). `kernel` draws from that categorical, one step
    of the chain; `max` and `min` take the largest and the smallest weights (Section 5.3; ties: the earlier).
    Several are drawn without repetition, since a candidate that occurs twice in Eq. 7 adds nothing. The chosen
    completion is a candidate only with `chosen_is_candidate`, although Algorithm 1 lists w_0: as its own negative it
    teaches nothing, and with one candidate the three choices are not the same, as Section 5.3 says they are.
    """
    first = 0 if chosen_is_candidate else 1
    columns = _empty(counts, negatives)
    for row, count, values, prompt in zip(columns, counts, scores, prompts, strict=True):
        keys = values[first:count].astype(np.float64)
        if choice == "kernel":
            # Gumbel-max: the order of log-weights with Gumbel noise is that of draws without repetition.
            keys = keys + np.random.default_rng([seed, epoch, int(prompt)]).gumbel(size=count - first)
        order = np.argsort(keys if choice == "min" else -keys, kind="stable") + first
        row[1:] = _filled(order[:negatives], len(row) - 1)
    return columns


def _empty(counts: np.ndarray, negatives: int) -> np.ndarray:
    columns = np.full((len(counts), 1 + min(negatives, int(counts.max(initial=1)) - 1)), -1, dtype=np.int64)
    columns[:, 0] = 0
    return columns


def _filled(columns: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([columns, np.full(size - len(columns), -1)])
