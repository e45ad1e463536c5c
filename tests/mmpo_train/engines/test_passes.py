"""How the work is cut: found by trying, and no trace of it in what is learnt."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpo_train.config import replace
from mmpo_train.data.tokens import TokenTable, read_table
from mmpo_train.engines import trying
from mmpo_train.engines.engine import memory_share
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.engines.trying import find_passes
from mmpo_train.metric_names import GRADIENT_NORM
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from tests.support import workers
from tests.support.standins.accelerator import CPU_SAYS, SIXTIES, Accelerator, found, passes_of, table_of
from tests.support.training import job, losses


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
