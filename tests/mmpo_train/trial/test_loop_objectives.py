"""Objectives in the loop: the same on one worker and two, and after an interruption."""

from pathlib import Path
from typing import Any

import pytest

from eval_workers.reward_accuracy import RewardAccuracy
from mmpo_train.config import OBJECTIVE_FIELDS, ONLINE_OBJECTIVES, replace, to_dict
from mmpo_train.recipes import objective_settings
from tests.support.training import EVERY_STEP, curve
from tests.support.workers import train_jobs

OFFLINE = [name for name in OBJECTIVE_FIELDS if name not in ONLINE_OBJECTIVES]
TOLERANCE = 2e-5


def jobs_of(prepared: Any, folder: Path, variants: list[dict[str, Any]], stop_after_step: int = 10**9) -> list[dict]:
    """A job for each variant, on ranked sets of two to five candidates, three epochs of five prompts a step."""
    jobs = []
    for number, variant in enumerate(variants):
        common = {"pairs_per_step": 5, "pairs_per_group": 4, "epochs": 3, "validate_every_steps": 100}
        own = objective_settings(variant["objective"])
        config = replace(prepared.config, common | {"learning_rate": 1e-3} | own | variant)
        places = {name: str(path) for name, path in vars(prepared.places).items()} | {
            "trials": str(folder / str(number))
        }
        jobs.append({"config": to_dict(config), "places": places, "stop_after_step": stop_after_step})
    return jobs


def relative_difference(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs) > 20
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(ours, theirs, strict=True))


def test_every_objective_trains_alike_in_padded_rows_on_one_worker_and_in_small_packed_passes_on_two(
    ranked_prepared: Any, tmp_path: Path
) -> None:
    variants = [{"objective": name} for name in OFFLINE]
    variants += [{"objective": "mc_po", "negatives": 3}, {"objective": "rnce", "negatives": 3}]
    padded = [variant | {"layout": "padded"} for variant in variants]
    layouts = ("shared", "packed")
    small = [variant | {"tokens_per_pass": 150, "layout": layouts[n % 2]} for n, variant in enumerate(variants)]
    one = train_jobs(jobs_of(ranked_prepared, tmp_path / "1", padded), workers=1, engine="torch")
    two = train_jobs(jobs_of(ranked_prepared, tmp_path / "2", small), workers=2)
    for variant, ours, theirs in zip(variants, one, two, strict=True):
        assert relative_difference(curve(ours), curve(theirs)) < TOLERANCE, variant
        assert curve(ours)[0] != pytest.approx(curve(ours)[-1], abs=1e-4), f"{variant} did not train"
        if variant["objective"].startswith(("bco", "kto")):
            points = [curve(result, "train/reference_point") for result in (ours, theirs)]
            assert relative_difference(*points) < TOLERANCE
            assert len(set(points[0])) > 2, "the reference point does not move"


@pytest.mark.slow
def test_objectives_with_a_state_or_draws_go_on_after_an_interruption(ranked_prepared: Any, tmp_path: Path) -> None:
    workers = 2
    variants: list[dict[str, Any]] = [
        {"objective": "bco_original", **EVERY_STEP},
        {"objective": "kto_original", "beta": 0.5, **EVERY_STEP},
        {"objective": "mc_po", "negatives": 2},
        {"objective": "mc_po", "zero_stage": 3, **EVERY_STEP},
        {"objective": "rnce", "lora_rank": 4, "lora_dropout": 0.1},
    ]
    whole = train_jobs(jobs_of(ranked_prepared, tmp_path / "whole", variants), workers)
    for result in train_jobs(jobs_of(ranked_prepared, tmp_path / "cut", variants, 12), workers):
        assert result["error"] == "killed"
    for variant, result, expected in zip(
        variants, train_jobs(jobs_of(ranked_prepared, tmp_path / "cut", variants), workers), whole, strict=True
    ):
        assert curve(result) == curve(expected), variant  # to the last bit
        folders = str(ranked_prepared.places.tokens), str(ranked_prepared.places.reference)
        judged = RewardAccuracy()(result["finished"][-1][1], *folders)["metrics"]
        last = result["points"][-1][2]
        for name, value in judged.items():  # the loss among them, with the checkpoint's reference point
            assert value == pytest.approx(last[name.replace("validation/", "validation_curve/")], abs=1e-5), name


def test_rnce_with_one_negative_is_dpo_and_mc_po_is_not(ranked_prepared: Any, tmp_path: Path) -> None:
    variants = [{"objective": name, "beta": 0.1} for name in ("dpo", "rnce", "mc_po")]
    dpo, rnce, mc_po = train_jobs(jobs_of(ranked_prepared, tmp_path, variants), workers=1, engine="torch")
    assert curve(dpo) == curve(rnce)
    assert max(abs(a - b) for a, b in zip(curve(dpo), curve(mc_po), strict=True)) > 1e-3
