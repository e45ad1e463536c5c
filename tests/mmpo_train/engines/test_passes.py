"""How the work is cut: found by trying, smaller where memory runs out, and no trace of either in what is learnt."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import TokenTable, read_table
from mmpo_train.engines import trying
from mmpo_train.engines.engine import memory_share
from mmpo_train.engines.passes import Passes, remember, remembered
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.engines.trying import find_passes
from mmpo_train.metric_names import GRADIENT_NORM
from mmpo_train.model.batches import plan_passes, tokens_in
from mmpo_train.model.layouts import is_out_of_memory
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.storage.whole_file import read_cache
from mmpo_train.trial.places import Places
from tests.support import workers
from tests.support.training import assert_same_losses, job, losses

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


# What a CPU is given.


@pytest.fixture
def real(prepared: Any) -> tuple[TorchEngine, TokenTable]:
    model = load_model(prepared.places.model)
    return TorchEngine(CompletionLogps(model), prepared.config), read_table(prepared.places.tokens, "train")


def test_a_cpu_takes_a_constant_or_the_configs_tokens_and_the_layout_that_the_model_can_do(
    prepared: Any, real: tuple[TorchEngine, TokenTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, table = real
    for given, taken in ((0, trying._CPU_TOKENS), (77, 77)):
        for layout in ("shared", "packed", "padded"):
            config = replace(prepared.config, {"tokens_per_pass": given, "layout": layout})
            assert find_passes(config, engine, table) == Passes(layout, taken, False)
    logps = engine.logps

    def without_packing(one: Any) -> torch.Tensor:
        if one.packing is not None:
            raise TypeError("forward() got an unexpected keyword argument 'packing'")
        return logps(one)

    monkeypatch.setattr(engine, "logps", without_packing)
    assert find_passes(prepared.config, engine, table).layout == "padded"

    def with_blind_prompts(one: Any) -> torch.Tensor:  # right where no prompt is shared
        shares = one.packing is not None and one.packing.key_places is not None
        return logps(one) + (1.0 if shares else 0.0)

    monkeypatch.setattr(engine, "logps", with_blind_prompts)
    assert find_passes(prepared.config, engine, table).layout == "packed"


def test_a_layout_is_not_ruled_out_because_memory_ran_out(
    prepared: Any, real: tuple[TorchEngine, TokenTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, table = real
    logps = engine.logps

    most = 2

    def nearly_full(one: Any) -> torch.Tensor:
        if one.packing is not None and one.prompt_count > most:
            raise RuntimeError(CPU_SAYS)
        return logps(one)

    monkeypatch.setattr(engine, "logps", nearly_full)
    assert find_passes(prepared.config, engine, table).layout == "shared"
    most = 0
    with pytest.raises(RuntimeError, match="can't allocate"):
        find_passes(prepared.config, engine, table)


def test_gradient_checkpointing_is_on_where_it_is_always_wanted(
    prepared: Any, real: tuple[TorchEngine, TokenTable]
) -> None:
    engine, table = real
    for wanted, on in (("always", True), ("auto", False), ("never", False)):
        config = replace(prepared.config, {"gradient_checkpointing": wanted})
        assert find_passes(config, engine, table).checkpointing is on
        assert engine.module.model.is_gradient_checkpointing is on


def test_a_trial_learns_the_same_to_the_last_bit_whether_its_passes_were_tried_or_given(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMPO_CACHE", str(tmp_path / "cache"))
    sizes = {}
    for given in (0, 1_024):
        monkeypatch.setattr(trying, "_WORTH_IT", 0.0)  # what is larger counts as faster, up to a whole step
        config = replace(prepared.config, {"tokens_per_pass": given, "pairs_per_step": 25, "learning_rate": 1e-3})
        result = workers._run(job(config, prepared.places, tmp_path / str(given)), TorchEngine)
        sizes[given] = passes_of(tmp_path / str(given)).tokens, losses(result), result["points"][-1][2][GRADIENT_NORM]
    assert sizes[0] == sizes[1_024]


# What an accelerator is given: one whose memory and speed are formulas.


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


# 120,000 tokens an epoch at some 8,000 a second: ten minutes are 40 epochs.
LONG, SHORT = {"epochs": 100}, {"epochs": 2}


@pytest.mark.parametrize(
    ("fields", "gain", "compiled", "was_tried"),
    [
        (LONG, 1.3, True, True),
        (LONG, 1.02, False, True),
        (LONG, 0.0, False, True),
        (SHORT, 1.3, False, False),
        (LONG | {"compile": "false"}, 1.3, False, False),
        (LONG | {"zero_stage": 3}, 1.3, False, False),
        (SHORT | {"compile": "true"}, 1.3, True, True),
    ],
    ids=str,
)
def test_layers_are_compiled_where_a_long_trial_is_faster_with_it(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], gain: float, compiled: bool, was_tried: bool
) -> None:
    engine = Accelerator(lambda tokens: tokens / 100_000, compiled=gain)
    answer = found(monkeypatch, engine, **fields)
    assert answer.compiled is engine.compiling[-1] is compiled and any(engine.compiling) is was_tried
    assert engine.discarded == (gain == 0.0)


# What a CPU is given where a step is larger than the smallest passes.


class Processor(Accelerator):
    """The same as a CPU: it says nothing of its memory, and 512 tokens go at 2,000 a second, others as `speeds` has it.

    A try of more than `most` tokens ends the process.
    """

    def __init__(self, speeds: dict[int, float], most: int = 10**9, width: int = 64, **named: Any) -> None:
        def speed(tokens: int) -> float:
            return next((fast for size, fast in speeds.items() if 0.8 * size < tokens <= size), 2_000)

        super().__init__(lambda tokens: 0.0, speed, **named)
        self.module: Any = SimpleNamespace(model=SimpleNamespace(config=LlamaConfig(hidden_size=width)))
        self.most = most

    def memory_share(self) -> None:  # type: ignore[override]
        return None

    def pass_of(self, tokens: int) -> None:
        if tokens > self.most:
            raise SystemExit("killed")
        super().pass_of(tokens)

    def sum(self, values: np.ndarray) -> np.ndarray:
        if values.shape == (1,):  # what worker 0 has found
            return values
        return super().sum(values)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("speeds", "tokens"),
    [
        ({1_024: 1_800}, 512),
        ({1_024: 2_090}, 512),
        ({1_024: 2_110, 2_048: 2_150}, 1_024),
        ({1_024: 2_200, 2_048: 2_500, 4_096: 2_600}, 2_048),
        ({1_024: 2_090, 2_048: 9_000}, 512),
    ],
    ids=str,
)
def test_a_cpu_takes_the_smallest_passes_of_which_no_twice_as_large_ones_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, cache: Path, speeds: dict[int, float], tokens: int
) -> None:
    assert found(monkeypatch, Processor(speeds)).tokens == tokens


def test_a_cpu_is_tried_once_for_each_kind_of_trial(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def tried(speeds: dict[int, float], width: int = 64, **fields: Any) -> tuple[int, bool]:
        engine = Processor(speeds, width=width)
        return found(monkeypatch, engine, **fields).tokens, bool(engine.tried)

    slow, fast = {1_024: 1_800.0}, {1_024: 2_200.0}
    assert tried(fast) == (1_024, True)
    assert tried(slow) == (1_024, False)
    assert tried(slow, learning_rate=1e-3, objective="dpo") == (1_024, False)
    assert tried(slow, width=128) == (512, True)
    assert tried(slow, precision="bf16") == (512, True)
    assert tried(slow, tokens_per_pass=300) == (300, False)


def test_workers_on_a_cpu_agree_and_the_slowest_counts(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    both = Processor({1_024: 4_000}, peers=(Processor({1_024: 1_900}, worker=1),))
    assert found(monkeypatch, both).tokens == 512


def test_a_process_that_was_killed_while_it_tried_takes_the_size_before_that(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    faster = {1_024: 3_000.0, 2_048: 4_000.0}
    with pytest.raises(SystemExit):
        found(monkeypatch, Processor(faster, most=1_024))
    assert found(monkeypatch, Processor(faster)).tokens == 1_024


def test_a_size_for_which_memory_might_not_last_is_not_tried(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """512 tokens took 100 MiB: 400 must be left for 1,024, which take 100 more and the optimiser's moments."""
    for left, tokens in ((390, 512), (410, 1_024)):
        most = iter([0, 100 * 2**10, 500 * 2**10])
        monkeypatch.setattr(trying, "_most_memory", lambda most=most: next(most))
        monkeypatch.setattr(trying, "memory_left", lambda left=left: left * 2**20)
        assert found(monkeypatch, Processor({1_024: 3_000, 2_048: 4_000}, width=64 * left)).tokens == tokens


def test_a_cache_that_cannot_be_written_costs_a_try_and_no_error(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("mmpo_train.storage.mirror.os.access", lambda place, how: False)
    for speed, tokens in ((1_800, 512), (2_200, 1_024)):
        assert found(monkeypatch, Processor({1_024: speed})).tokens == tokens
    assert not cache.exists()


@pytest.mark.parametrize(("part", "peak", "expected"), [(1.0, 30.0, 0.5), (0.5, 30.0, 0.75), (0.25, 10.0, 0.5)])
def test_a_share_of_memory_is_that_of_this_processs_part(monkeypatch, part, peak, expected):
    """80 GB, of which 10 are others'; a process with the whole card reckons with them, one with a part has that."""
    gb = 2**30
    seen = {"max_memory_reserved": peak * gb, "memory_reserved": peak * gb, "mem_get_info": ((70 - peak) * gb, 80 * gb)}
    seen |= {"get_per_process_memory_fraction": part}
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", *seen):
        monkeypatch.setattr(torch.cuda, name, partial(lambda value, *_: value, seen.get(name)))
    assert memory_share(torch.device("cuda", 0)) == pytest.approx(expected)


def test_passes_grow_to_the_largest_that_stay_under_the_share_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.2 and 1e-5 a token: 32,768 tokens take 0.53 of the memory, 65,536 would take 0.86 and are never tried."""
    engine = Accelerator(lambda tokens: 1e-5 * tokens)
    assert found(monkeypatch, engine) == Passes("shared", 32_768, False)
    assert 32_700 < max(engine.tried) <= 32_768
    assert found(monkeypatch, Accelerator(lambda tokens: 0.98e-5 * tokens)).tokens == 65_536
    assert found(monkeypatch, Accelerator(lambda tokens: 1e-5 * tokens), tokens_per_pass=500).tokens == 500


def test_passes_stop_growing_where_a_larger_one_is_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens a second: 2,048, then 4,096, then 5,000 (1.22 times as many, kept), then 5,000 again (left)."""
    engine = Accelerator(lambda tokens: 1e-6 * tokens, speed=lambda tokens: min(tokens, 5_000))
    assert found(monkeypatch, engine).tokens == 8_192
    assert 16_300 < max(engine.tried) <= 16_384


def test_passes_grow_no_further_than_what_holds_a_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 prompts a step of 59 tokens on average are 5,900 tokens; half of that on each of two workers."""
    engine = Accelerator(lambda tokens: 1e-6 * tokens)
    assert found(monkeypatch, engine, pairs_per_step=100).tokens == 8_192
    assert max(engine.tried) <= 8_192
    both = Accelerator(lambda tokens: 1e-6 * tokens, peers=(Accelerator(lambda tokens: 1e-6 * tokens, worker=1),))
    assert found(monkeypatch, both, pairs_per_step=100).tokens == 4_096


def test_passes_have_room_for_the_longest_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger ones do not pay, but one prompt with its completions has 9,000 tokens alone."""
    table = TokenTable(
        SIXTIES.prompts + table_of((3000, 3000, 3000)).prompts,
        SIXTIES.completions + table_of((3000, 3000, 3000)).completions,
    )
    engine = Accelerator(lambda tokens: 5e-5 * tokens, speed=lambda tokens: 1000.0)
    assert found(monkeypatch, engine, table) == Passes("shared", 9_000, False)
    assert found(monkeypatch, engine, table, layout="packed") == Passes("packed", 12_000, False)
    assert found(monkeypatch, engine, table, layout="padded") == Passes("padded", 12_000, False)


@pytest.mark.parametrize("longest, on", [(6_480, False), (6_600, True)])
def test_activations_are_recomputed_only_where_the_longest_example_would_not_fit(
    longest: int, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.2 and 1e-4 a token reach 0.85 at 6,500 tokens; recomputing takes 1e-5 a token, so 32,768 tokens fit."""
    last = table_of((longest - 2000, 1000, 1000))
    table = TokenTable(SIXTIES.prompts + last.prompts, SIXTIES.completions + last.completions)
    engine = Accelerator(lambda tokens: 1e-4 * tokens)
    assert found(monkeypatch, engine, table) == Passes("shared", 32_768 if on else longest, on)
    assert engine.recomputing is on
    engine = Accelerator(lambda tokens: 1e-4 * tokens)
    never = found(monkeypatch, engine, table, gradient_checkpointing="never")
    assert never == Passes("shared", 2_048 if on else longest, False) and not engine.recomputing


def test_long_prompts_and_a_jitter_of_the_memory_do_not_switch_recomputation_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every prompt is larger than the first two tries, which must not be the same pass: noise is no slope.

    They hold the shortest of 3,000 tokens and the longest of 4,800; 38,400 take 0.58 of the memory, 76,800 do not fit.
    """
    table = table_of(*[(1000, 1000, 1000 + row % 3 * 900) for row in range(60)])
    noise = iter(np.tile([0.0, 0.002], 100))
    engine = Accelerator(lambda tokens: 1e-5 * tokens + float(next(noise)))
    assert found(monkeypatch, engine, table) == Passes("shared", 38_400, False)


def test_padding_counts_in_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long row in a pass of short ones: padded, it is far larger than the sum of its rows.

    32,768 tokens take 0.53 of the memory, so that none may be tried that have more with their padding.
    """
    table = table_of(*[(20, 20, 20 + 480 * (row % 20 == 5)) for row in range(2000)])
    engine = Accelerator(lambda tokens: 1e-5 * tokens)
    assert found(monkeypatch, engine, table, layout="padded") == Passes("padded", 32_768, False)
    assert max(engine.tried) <= 32_768


def test_a_try_that_runs_out_of_memory_ends_the_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that grows with the square of the tokens: 16,384 are foreseen to take 0.82 and would take 1.19."""
    engine = Accelerator(lambda tokens: 3.7e-9 * tokens**2)
    assert found(monkeypatch, engine) == Passes("shared", 8_192, False)
    assert engine.discarded == 1
    engine = Accelerator(lambda tokens: 1e-3 * tokens)
    assert found(monkeypatch, engine) == Passes("shared", 4_096, True)
    together = Accelerator(lambda tokens: 1e-3 * tokens, peers=(Accelerator(lambda tokens: 0.0, worker=1),))
    with pytest.raises(torch.OutOfMemoryError):  # the other one waits in a collective operation
        found(monkeypatch, together)


def test_workers_of_different_memory_agree_on_what_the_smaller_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(worker: int, *peers: Accelerator) -> Accelerator:
        return Accelerator(lambda tokens: 4e-5 * tokens, worker=worker, peers=peers)

    def large(worker: int, *peers: Accelerator) -> Accelerator:
        return Accelerator(lambda tokens: 1e-6 * tokens, speed=lambda tokens: 1e5 + tokens, worker=worker, peers=peers)

    alone = found(monkeypatch, small(0))
    assert alone == Passes("shared", 8_192, False)
    assert found(monkeypatch, small(0, large(1))) == alone
    assert found(monkeypatch, large(1, small(0))) == alone


# What is done where memory runs out.


def test_passes_shrink_to_the_longest_example_then_recompute_then_hold_one_prompt_each() -> None:
    """950 tokens in all, 250 of them in one example."""
    table = table_of(*[(50, 30, 20)] * 7, (100, 50, 100))
    everything = np.arange(8)

    def largest(some: Passes) -> int:
        return max(int(table.together[part].sum()) for part in plan_passes(table, everything, some.tokens, 1, "shared"))

    sizes: list[int] = []
    now: Passes | None = Passes("shared", 100_000)
    while now is not None and now.tokens > 250:
        sizes.append(largest(now))
        now = now.smaller(table, may_recompute=True)
    assert sizes[0] == 950 and len(sizes) >= 2
    assert all(later <= max(earlier // 2, 250) for earlier, later in zip(sizes, sizes[1:])), "each of them is smaller"
    assert now == Passes("shared", 250)
    assert now.smaller(table, may_recompute=True) == Passes("shared", 250, True)
    assert now.smaller(table, may_recompute=False) == Passes("shared", 1)
    assert Passes("shared", 250, True).smaller(table, True) == Passes("shared", 1, True)
    assert Passes("shared", 1).smaller(table, True) == Passes("shared", 1, True)
    assert Passes("shared", 1, True).smaller(table, True) is None
    assert Passes("shared", 1).smaller(table, False) is None


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_smaller_cut_has_a_smaller_largest_pass(layout: Any, workers: int) -> None:
    draw = np.random.default_rng(3)
    table = table_of(*[tuple(map(int, draw.integers(3, 60, 3 + row % 3))) for row in range(30)])
    now: Passes | None = Passes(layout, 10**6)
    largest = 10**9
    while now is not None and now.tokens > 1:
        held = [
            part.sum() if layout != "padded" else rows.sum() * longest.max()
            for some in plan_passes(table, np.arange(30), now.tokens, workers, layout)
            if len(some)
            for part in [tokens_in(table, layout)[some]]
            for rows in [np.array([len(table.completions[prompt]) for prompt in some])]
            for longest in [table.longest[some]]
        ]
        assert max(held) < largest
        largest, now = max(held), now.smaller(table, may_recompute=False, workers=workers)


def test_remembered_passes_are_those_that_were_remembered(tmp_path: Path) -> None:
    config = TrialConfig()
    assert remembered(tmp_path, config) is None
    for some in (Passes("shared", 2048), Passes("padded", 1, True)):
        remember(tmp_path, config, some)
        assert remembered(tmp_path, replace(config, {"beta": 0.3})) == some
    assert [path.name for path in tmp_path.iterdir()] == ["passes.json"]
    for damaged in ("{", "", "[]", '{"asked": 3}', (tmp_path / "passes.json").read_text().replace("padded", "packed")):
        (tmp_path / "passes.json").write_text(damaged)
        assert remembered(tmp_path, config) is None, "they are found anew"


@pytest.mark.parametrize(
    "asked", [{"tokens_per_pass": 100}, {"layout": "packed"}, {"gradient_checkpointing": "always"}]
)
def test_a_person_who_asks_for_other_passes_gets_them(tmp_path: Path, asked: dict) -> None:
    remember(tmp_path, TrialConfig(), Passes("shared", 2048))
    assert remembered(tmp_path, replace(TrialConfig(), asked)) is None


@pytest.mark.parametrize(
    "error, so",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (np.core._exceptions._ArrayMemoryError((10**12,), np.dtype(np.float64)), True),
        (RuntimeError(CPU_SAYS), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (ValueError(CPU_SAYS), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: BaseException, so: bool) -> None:
    assert is_out_of_memory(error) is so


# Nothing of it in what is learnt.


@pytest.fixture(scope="module")
def short_config(prepared: Any) -> TrialConfig:
    """Eight steps of at least two passes each."""
    fields = {"pairs_per_step": 5, "pairs_per_group": 4, "learning_rate": 1e-3, "validate_every_steps": 100}
    return replace(prepared.config, fields | {"tokens_per_pass": 120})


@pytest.fixture(scope="module")
def undisturbed(short_config: TrialConfig, prepared: Any, tmp_path_factory: Any) -> dict:
    """The short trial in plain torch."""
    return workers._run(job(short_config, prepared.places, tmp_path_factory.mktemp("plain")), TorchEngine)


def passes_of(folder: Path) -> Passes:
    [path] = folder.glob("*/passes.json")
    return Passes(**read_cache(path)["passes"])


def test_a_trial_that_is_begun_again_takes_the_passes_that_it_remembers(
    short_config: TrialConfig, prepared: Any, undisturbed: dict, tmp_path: Path
) -> None:
    sizes: list[int] = []

    def spied(module: Any, config: TrialConfig) -> TorchEngine:
        engine = TorchEngine(module, config)
        logps = engine.logps

        def seen(one: Any, *more: Any) -> torch.Tensor:
            if torch.is_grad_enabled():
                sizes.append(one.prompt_count)
            return logps(one, *more)

        engine.logps = seen  # type: ignore[method-assign]
        return engine

    places = Places(**vars(prepared.places) | {"trials": tmp_path})
    places.trial(short_config).mkdir(parents=True)
    remember(places.trial(short_config), short_config, Passes("padded", 1, True))
    result = workers._run(job(short_config, prepared.places, tmp_path), spied)
    assert_same_losses(result, undisturbed, len(losses(undisturbed)))
    assert set(sizes) == {1} and passes_of(tmp_path) == Passes("padded", 1, True)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_in_which_memory_ran_out_is_the_same_step_in_plain_torch(
    where: str, short_config: TrialConfig, prepared: Any, undisturbed: dict, tmp_path: Path
) -> None:
    disturbed = job(short_config, prepared.places, tmp_path) | {"out_of_memory": {"step": 3, "where": where}}
    result = workers._run(disturbed, TorchEngine)
    assert_same_losses(result, undisturbed, len(losses(undisturbed)))
    assert 1 < passes_of(tmp_path).tokens < 120


def test_a_step_in_which_memory_ran_out_is_the_same_step_under_zero(
    short_config: TrialConfig, prepared: Any, undisturbed: dict, tmp_path: Path
) -> None:
    """In the middle of the second pass: gradients of the first one, and some of the second, have been added by then."""
    lora: dict[str, Any] = {"lora_rank": 4, "lora_dropout": 0.0}
    plain = [lora, {"optimizer": "adamw_8bit"}, lora | {"optimizer": "adamw_8bit"}]
    cases: list[tuple[str, dict[str, Any]]] = [("backward", {"zero_stage": stage}) for stage in (0, 1, 2)]
    cases += [("forward", {"zero_stage": 2}), *[("backward", fields) for fields in plain]]
    jobs = [
        job(short_config, prepared.places, tmp_path / str(number), **fields)
        | {"out_of_memory": {"step": 3, "where": where}}
        for number, (where, fields) in enumerate(cases)
    ]
    jobs += [
        job(short_config, prepared.places, tmp_path / "plain" / str(number), **f) for number, f in enumerate(plain)
    ]
    results = workers.train_jobs(jobs, workers=1)
    expected = [undisturbed] * 4 + results[len(cases) :]
    for number, (case, reference) in enumerate(zip(cases, expected, strict=True)):
        assert_same_losses(results[number], reference, len(losses(undisturbed)))
        assert 1 < passes_of(tmp_path / str(number)).tokens < 120, case


@pytest.mark.slow
def test_workers_of_which_one_runs_out_of_memory_end_and_begin_again_with_smaller_passes(
    short_config: TrialConfig, prepared: Any, undisturbed: dict, tmp_path: Path
) -> None:
    whole = job(short_config, prepared.places, tmp_path, tokens_per_pass=60)
    disturbed = whole | {"out_of_memory": {"step": 3, "where": "backward", "worker": 1}}
    with pytest.raises(AssertionError) as ended:
        workers.train_jobs([disturbed], workers=2)
    smaller = passes_of(tmp_path)
    assert smaller.tokens < 60
    assert "OutOfMemory: step 3 ran out of memory with passes of shared, at most 60 tokens" in str(ended.value)
    assert f"the restarted trial takes {smaller}" in str(ended.value)
    [result] = workers.train_jobs([whole], workers=2)
    assert_same_losses(result, undisturbed, len(losses(undisturbed)))
    assert passes_of(tmp_path) == smaller


@pytest.mark.slow
def test_a_trial_that_really_runs_out_of_memory_goes_on_with_smaller_passes(tmp_path: Path) -> None:
    """A process that may take 200 MB more than it has: 10,000 tokens in a pass would need twice that, 1,000 a tenth."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=2000, num_key_value_heads=4, **shape)).save_pretrained(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import tests.mmpo_train.engines.test_passes as it; it.train_in_little_memory({str(tmp_path)!r}, 200)",
        ],
        cwd=workers.REPOSITORY,
        # One arena, or each thread's first allocation takes 64 MB of the addresses.
        env=os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["disturbed"] == pytest.approx(report["undisturbed"], rel=1e-5) and len(report["disturbed"]) == 2
    kept = report["kept"]
    assert kept == sorted(kept, reverse=True) and 4_000 < kept[0] < 6_000
    assert kept[-1] > 1_000, "what a broken-off pass held is free again, or halves would not fit either"


def train_in_little_memory(model: str, megabytes: int) -> None:
    """Two steps in small passes, then the same within a limit in passes that are too large; prints what came out."""
    from mmpo_train.model.scoring import ScoredTable, model_forward, score_pairs
    from mmpo_train.trial.loop import train
    from mmpo_train.trial.preferences import Preferences

    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    table = table_of(*[(300, *map(int, draw.integers(200, 330, 2))) for _ in range(24)])
    forward = model_forward(CompletionLogps(load_model(Path(model))), torch.device("cpu"), "fp32")
    scored = ScoredTable(table, score_pairs(forward, table, np.arange(len(table)), 1_000, layout="shared"))
    validation = scored.take(np.arange(1), np.array([[0, 1]]))
    fields = {"pairs_per_step": 12, "epochs": 1, "precision": "fp32", "learning_rate": 1e-3}
    config = replace(TrialConfig(), fields | {"validate_every_steps": 100, "gradient_checkpointing": "never"})

    def run(tokens: int) -> tuple[list[float], list[int]]:
        points: list[float] = []
        kept: list[int] = []
        engine = TorchEngine(CompletionLogps(load_model(Path(model))), config)
        train(
            config,
            Preferences(config, scored, validation, engine),
            engine,
            Passes("shared", tokens),
            report=lambda metrics, step: points.append(float(metrics["train/loss"])),
            publish=lambda *finished: None,
            keep_passes=lambda smaller: kept.append(smaller.tokens),
        )
        return points, kept

    undisturbed, none = run(1_000)
    assert not none
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20,) * 2)
    disturbed, kept = run(100_000)
    print(json.dumps({"undisturbed": undisturbed, "disturbed": disturbed, "kept": kept}))
