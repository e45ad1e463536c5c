"""Whether a pair costs the same in a large dataset as in a small one: the training loop itself on ever more pairs.

    python benchmarks/dataset.py                    1,000, 8,000 and 64,000 pairs, 20 steps of 16 pairs each

The same steps of a small Llama, so that what the loop does beside the model shows; rounds over the sizes, medians.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from lengths import preference_table
from random_llama import random_llama

from mmpo_train.config import TrialConfig
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import use_packed_attention
from mmpo_train.model.scoring import ScoredTable
from mmpo_train.trial.loop import train
from mmpo_train.trial.preferences import Preferences

VOCABULARY = 1024


class Enough(Exception):
    """The steps that are measured are done."""


def seconds_per_pair(pairs: ScoredTable, validation: ScoredTable, steps: int, passes: Passes) -> float:
    """Median over the steps but the first two, of a trial that is broken off after them."""
    config = TrialConfig(objective="mmpo", pairs_per_step=16, precision="fp32", validate_every_steps=10**6)
    model = random_llama(64, 2, VOCABULARY)
    use_packed_attention(model)
    times: list[float] = []

    def report(metrics: dict[str, float], step: int) -> None:
        times.append(time.perf_counter())
        if step == steps + 2:
            raise Enough

    engine = TorchEngine(CompletionLogps(model), config)
    try:
        task = Preferences(config, pairs, validation, engine)
        train(config, task, engine, passes, report=report, publish=lambda *_: None)
    except Enough:
        return statistics.median(np.diff(times[1:])) / config.pairs_per_step
    raise AssertionError("fewer steps in the data than are to be measured")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 8_000, 64_000])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole = preference_table(max(given.pairs), VOCABULARY, 0.1)
    both = np.tile(np.arange(2), (max(given.pairs), 1))
    scored = ScoredTable(whole, -np.random.default_rng(0).random((len(whole), 2), dtype=np.float32))
    tables = {size: scored.take(np.arange(size), both[:size]) for size in given.pairs}
    seconds: dict[int, list[float]] = {size: [] for size in given.pairs}
    for _ in range(given.rounds):
        for size, table in tables.items():
            seconds[size].append(seconds_per_pair(table, tables[min(given.pairs)], given.steps, Passes("shared", 2048)))
    first = statistics.median(seconds[min(given.pairs)])
    for size, values in seconds.items():
        median = statistics.median(values)
        print(f"{size:8,} pairs: {1e3 * median:7.3f} ms a pair, {median / first:5.2f} times the first")


if __name__ == "__main__":
    main()
