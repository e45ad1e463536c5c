"""An accelerator whose memory and speed are formulas, prompts of any length, and the passes found for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import TokenTable
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.trying import find_passes
from mmpo_train.storage.whole_file import read_cache

CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "67108864 bytes. Error code 12 (Cannot allocate memory)"
)


def table_of(*examples: tuple[int, ...]) -> TokenTable:
    """A table of prompts with so many tokens each in the prompt, the chosen completion, the rejected ones."""

    def ids(count: int) -> np.ndarray:
        return np.arange(count, dtype=np.int32)

    return TokenTable(
        tuple(ids(prompt) for prompt, *_ in examples), tuple(tuple(map(ids, row)) for _, *row in examples)
    )


class Accelerator:
    """An engine whose pass of n tokens takes `memory(n)` of its memory, a tenth of that without activations.

    A pass moves the clock by n / `speed(n)` seconds. Above a share of 1 it runs out of memory. `peers` are the
    workers besides this one, which do the same passes at the same time. `compiled` says how many times as fast passes
    of compiled layers are; 0: they cannot be compiled.
    """

    def __init__(
        self,
        memory: Callable[[int], float],
        speed: Callable[[int], float] = lambda tokens: 1e4 * tokens / (tokens + 20_000),
        held: float = 0.2,
        worker: int = 0,
        peers: tuple[Accelerator, ...] = (),
        compiled: float = 1.0,
    ) -> None:
        self.memory, self.speed, self.held, self.worker, self.peers = memory, speed, held, worker, peers
        self.workers = 1 + len(peers)
        self.clock, self.peak, self.recomputing, self.discarded = 0.0, held, False, 0
        self.compiled, self.compiling = compiled, [False]
        self.tried: list[int] = []

    def logps(self, one: Any) -> torch.Tensor:
        self.tokens = one.input_ids.numel()
        return torch.zeros(one.completion_count, requires_grad=True)

    def backward(self, loss: torch.Tensor) -> None:
        assert float(loss.detach()) == 0, "what is tried must not be learnt"
        for each in (self, *self.peers):
            each.pass_of(self.tokens)

    def pass_of(self, tokens: int) -> None:
        self.peak = self.held + self.memory(tokens) * (0.1 if self.recomputing else 1.0)
        if self.peak > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.compiling[-1] and not self.compiled:
            raise RuntimeError("no working C compiler found")
        self.seconds = tokens / self.speed(tokens) / (self.compiled if self.compiling[-1] else 1.0)
        self.clock += self.seconds
        self.tried.append(tokens)

    def memory_share(self) -> float:
        peak, self.peak = self.peak, self.held
        return peak

    def sum(self, values: np.ndarray) -> np.ndarray:
        values = values.copy()
        for peer in self.peers if values.ndim == 2 else ():
            values[:, peer.worker] = peer.memory_share(), peer.seconds
        return values

    def discard(self) -> bool:
        self.discarded += 1
        return self.workers == 1

    def recompute_activations(self, wanted: bool) -> None:
        for each in (self, *self.peers):
            each.recomputing = wanted

    def compile_layers(self, wanted: bool) -> None:
        for each in (self, *self.peers):
            each.compiling.append(wanted)


SIXTIES = table_of(*[(20, 15 + row % 10, 15 + row % 10) for row in range(2000)])


def found(monkeypatch: pytest.MonkeyPatch, engine: Accelerator, table: TokenTable = SIXTIES, **fields: Any) -> Passes:
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(f"mmpo_train.engines.trying.time.{clock}", lambda: engine.clock)
    return find_passes(replace(TrialConfig(), {"pairs_per_step": 2000, "precision": "fp32"} | fields), engine, table)


def passes_of(folder: Path) -> Passes:
    [path] = folder.glob("*/passes.json")
    return Passes(**read_cache(path)["passes"])
