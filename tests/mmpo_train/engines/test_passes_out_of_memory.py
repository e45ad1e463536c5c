"""Where memory runs out, passes become smaller, and nothing of it shows in what is learnt."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from mmpo_train.config import TrialConfig, replace
from mmpo_train.engines.passes import Passes, remember, remembered
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model.batches import plan_passes, tokens_in
from mmpo_train.model.layouts import is_out_of_memory
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.trial.places import Places
from tests.support import workers
from tests.support.standins.accelerator import CPU_SAYS, passes_of, table_of
from tests.support.training import assert_same_losses, job, losses


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


@pytest.fixture(scope="module")
def short_config(prepared: Any) -> TrialConfig:
    """Eight steps of at least two passes each."""
    fields = {"pairs_per_step": 5, "pairs_per_group": 4, "learning_rate": 1e-3, "validate_every_steps": 100}
    return replace(prepared.config, fields | {"tokens_per_pass": 120})


@pytest.fixture(scope="module")
def undisturbed(short_config: TrialConfig, prepared: Any, tmp_path_factory: Any) -> dict:
    """The short trial in plain torch."""
    return workers._run(job(short_config, prepared.places, tmp_path_factory.mktemp("plain")), TorchEngine)


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
    from transformers import LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=2000, num_key_value_heads=4, **shape)).save_pretrained(tmp_path)
    code = f"import {__name__} as it; it.train_in_little_memory({str(tmp_path)!r}, 200)"
    done = subprocess.run(
        [sys.executable, "-c", code],
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
