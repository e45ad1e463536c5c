"""The engines, for real: DeepSpeed over gloo with one worker and with two, against plain torch."""

from pathlib import Path
from typing import Any

import pytest

from eval_workers.reward_accuracy import RewardAccuracy
from mmpo_train.config import TrialConfig, replace
from tests.support.training import EVERY_STEP, assert_same_losses, job, losses
from tests.support.workers import train_jobs

STEPS = 20


@pytest.fixture(scope="module")
def long_config(prepared: Any) -> TrialConfig:
    """At least 20 steps, with partial last steps and groups."""
    return replace(
        prepared.config,
        {"pairs_per_step": 5, "pairs_per_group": 4, "epochs": 3, "learning_rate": 1e-3, "validate_every_steps": 100},
    )


@pytest.mark.slow
def test_engines_layouts_pass_sizes_stages_and_worker_counts_give_the_same_losses(
    long_config: TrialConfig, prepared: Any, tmp_path: Path
) -> None:
    objectives = ("mmpo", "dpo", "simpo")
    plain = [
        job(long_config, prepared.places, tmp_path / "torch", objective=name, layout="padded") for name in objectives
    ]
    expected = train_jobs(plain, workers=1, engine="torch")
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        jobs = [job(long_config, prepared.places, folder, objective=name) for name in objectives]
        jobs += [
            job(long_config, prepared.places, folder / layout, objective=name, layout=layout, tokens_per_pass=150)
            for layout in ("packed", "shared")
            for name in objectives
        ]
        jobs += [job(long_config, prepared.places, folder / f"stage-{stage}", zero_stage=stage) for stage in (0, 1, 3)]
        results = train_jobs(jobs, workers)
        for result, reference in zip(results, [*expected * 3, *[expected[0]] * 3], strict=True):
            assert len(losses(reference)) >= STEPS
            assert_same_losses(result, reference, len(losses(reference)))


@pytest.mark.parametrize(
    ("workers", "precision"),
    [(2, "fp32"), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "fp32"), (1, "bf16"), (2, "bf16")))],
)
def test_an_interrupted_trial_ends_as_an_uninterrupted_one(
    workers: int, precision: str, long_config: TrialConfig, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The first from the end of its first epoch, the others from the step before the kill."""
    of_fp32: list[dict[str, Any]] = [
        {},
        {"zero_stage": 3, **EVERY_STEP},
        {"optimizer": "adamw_8bit", **EVERY_STEP},
        {"lora_rank": 4, "lora_dropout": 0.1, **EVERY_STEP},
    ]
    of_bf16: list[dict[str, Any]] = [
        {"precision": "bf16"},
        *({"precision": "bf16", "zero_stage": stage, **EVERY_STEP} for stage in (0, 1, 2, 3)),
    ]
    variants = of_bf16 if precision == "bf16" else of_fp32
    places = request.getfixturevalue("bf16_prepared" if precision == "bf16" else "prepared").places

    def jobs(folder: str, stop_after_step: int) -> list[dict]:
        return [
            job(long_config, places, tmp_path / folder / str(number), stop_after_step, **variant)
            for number, variant in enumerate(variants)
        ]

    whole = train_jobs(jobs("whole", 10**9), workers)
    middle_of_second_epoch = len(losses(whole[0])) // 2
    for result in train_jobs(jobs("cut", middle_of_second_epoch), workers):
        assert result["error"] == "killed"
    resumed = train_jobs(jobs("cut", 10**9), workers)
    begun_after = [len(losses(whole[0])) // 3, *[middle_of_second_epoch - 1] * (len(variants) - 1)]
    for result, expected, step in zip(resumed, whole, begun_after, strict=True):
        assert result["safe"][0] == step
        assert losses(result) == losses(expected)  # to the last bit; the points of before the kill are sent again
        assert [epoch for epoch, _ in result["finished"]] == [1, 2, 3]
        judged = RewardAccuracy()(result["finished"][-1][1], str(places.tokens), str(places.reference))
        last = result["points"][-1][2]
        for name, value in judged["metrics"].items():  # the evaluator reads the folder, LoRA adapters among them
            assert value == pytest.approx(last[name.replace("validation/", "validation_curve/")], abs=1e-5), name
    for number in range(len(variants)):
        ours, theirs = (
            next((tmp_path / folder / str(number)).glob("*/checkpoints/epoch-0003")) for folder in ("cut", "whole")
        )
        for path in theirs.glob("*.safetensors"):
            assert (ours / path.name).read_bytes() == path.read_bytes()


def test_a_loss_that_is_no_number_ends_the_trial_as_diverged(
    long_config: TrialConfig, prepared: Any, tmp_path: Path
) -> None:
    (result,) = train_jobs(
        [job(long_config, prepared.places, tmp_path, learning_rate=1e30, warmup_share=0.0)], workers=1
    )
    assert "at step" in result["error"] and ("nan" in result["error"] or "inf" in result["error"])
    assert losses(result)
