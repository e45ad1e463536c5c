"""Training on a GPU: the kernel, both precisions, DeepSpeed over NCCL, resuming, LoRA with 8-bit Adam."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpo_train.config import TrialConfig, replace
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model.attention import packed_attention, packing_of
from mmpo_train.model.reference import read_reference, score_shard
from tests.support import workers
from tests.support.training import EVERY_STEP, curve, job, losses

pytestmark = pytest.mark.gpu

# Kernels of other sizes and atomic additions round elsewhere.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


@pytest.fixture(scope="module")
def trials(prepared: Any, bf16_prepared: Any) -> dict[str, tuple[TrialConfig, Any]]:
    """By precision: four steps of DPO, each of twenty pairs, and where its tables are."""
    fields = {"objective": "dpo", "pairs_per_step": 20, "epochs": 2, "learning_rate": 1e-3}
    fields |= {"validate_every_steps": 100}
    both = {"fp32": prepared, "bf16": bf16_prepared}
    return {name: (replace(one.config, fields), one.places) for name, one in both.items()}


def needs_gpus(count: int) -> None:
    """NCCL refuses two workers on one GPU."""
    if torch.cuda.is_available() and torch.cuda.device_count() < count:
        pytest.skip(f"needs {count} GPUs")


@pytest.mark.parametrize("window", [None, 40])
def test_the_kernel_gives_what_single_precision_gives(device: torch.device, window: int | None) -> None:
    torch.manual_seed(0)
    packing = packing_of([60, 30, 50, 20, 40], [(0, 2, 0, 0), (2, 3, 0, 1), (3, 5, 0, 0)])
    states = [torch.randn(1, heads, 200, 64, device=device, requires_grad=True) for heads in (4, 2, 2)]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        given = [each.to(dtype) for each in states]
        out, _ = packed_attention(
            torch.nn.Module(),
            *given,
            None,
            packing.to(device),
            0.125,
            window,
            otherwise=None,  # type: ignore[arg-type]
        )
        results.append([out, *torch.autograd.grad(out.float().square().sum(), states)])
    for want, got in zip(*results, strict=True):
        assert (got.float() - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize("fields", [{}, {"lora_rank": 2, "optimizer": "adamw_8bit"}], ids=str)
def test_the_plain_engine_and_the_reference_store_reach_the_kernel(
    trials: dict[str, Any], kernel: list[int], tmp_path: Path, fields: dict[str, Any]
) -> None:
    config, places = trials["bf16"]
    shard = (str(places.model), str(places.tokens), "bf16", 512, "validation", 0, 4)
    store = np.array(score_shard(*shard))
    assert kernel
    np.testing.assert_allclose(store, read_reference(places.reference, "validation")[:4], rtol=2e-2)
    kernel.clear()
    result = workers._run(job(config, places, tmp_path, **fields), TorchEngine)
    assert losses(result)[1] == pytest.approx(np.log(2), abs=0.02) and len(losses(result)) == 4
    assert len(kernel) > 2 * 4, "two layers, four steps, validation and trying"


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_deepspeed_at_every_stage_has_the_losses_of_the_plain_engine(
    trials: dict[str, Any], tmp_path: Path, precision: str, count: int
) -> None:
    needs_gpus(count)
    config, places = trials[precision]
    variants: list[dict[str, Any]] = [{"zero_stage": stage} for stage in (0, 1, 2, 3)]
    variants += [{"zero_stage": 2, "tokens_per_pass": 150}]
    jobs = [job(config, places, tmp_path / str(number), **fields) for number, fields in enumerate(variants)]
    plain = workers._run(job(config, places, tmp_path / "plain"), TorchEngine)
    for fields, result in zip(variants, workers.train_jobs(jobs, count), strict=True):
        for name in ("train/loss", "train/gradient_norm"):
            assert curve(result, name) == pytest.approx(curve(plain, name), rel=TOLERANCE[precision]), fields


@pytest.mark.parametrize("fields", [{}, {"lora_rank": 2, "lora_dropout": 0.0, "optimizer": "adamw_8bit"}], ids=str)
def test_a_killed_trial_goes_on_at_another_stage_with_the_losses_of_an_undisturbed_one(
    trials: dict[str, Any], tmp_path: Path, fields: dict[str, Any]
) -> None:
    config, places = trials["bf16"]
    config = replace(config, fields | EVERY_STEP)
    begun = job(config, places, tmp_path / "killed", stop_after_step=3, zero_stage=2)
    goes_on = job(config, places, tmp_path / "killed", zero_stage=1)
    undisturbed = job(config, places, tmp_path / "undisturbed", zero_stage=2)
    first, second, whole = workers.train_jobs([begun, goes_on, undisturbed], workers=1)
    assert first["error"] == "killed" and second["safe"][0] > 0, "it does not begin anew"
    together = losses(first) | losses(second)
    assert together == pytest.approx(losses(whole), rel=TOLERANCE["bf16"])
