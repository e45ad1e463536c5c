"""Jobs for tests that train with several engines, and what their results must have in common."""

from pathlib import Path
from typing import Any

from mmpo_train.config import TrialConfig, replace, to_dict
from mmpo_train.trial.places import Places

EVERY_STEP = {"checkpoint_minutes": 1e-9}
"""Fields of a trial that writes what a resume needs after each step."""


TOLERANCE = 1e-5


def job(config: TrialConfig, places: Places, folder: Path, stop_after_step: int = 10**9, **fields: Any) -> dict:
    """A job for `train_jobs` in a trial folder of its own."""
    return {
        "config": to_dict(replace(config, fields)),
        "places": {name: str(path) for name, path in vars(places).items()} | {"trials": str(folder)},
        "stop_after_step": stop_after_step,
    }


def losses(result: dict) -> dict[int, float]:
    """Step -> loss."""
    return {step: metrics["train/loss"] for step, _, metrics in result["points"]}


def assert_same_losses(result: dict, expected: dict, steps: int) -> None:
    """Both have the steps 1 … n, with losses (sums of nats, up to a hundred) equal to 1e-5 of themselves."""
    ours, theirs = losses(result), losses(expected)
    assert sorted(ours) == sorted(theirs) == list(range(1, steps + 1)), result["error"]
    assert max(abs(ours[step] - theirs[step]) / max(1.0, abs(theirs[step])) for step in ours) < TOLERANCE


def curve(result: dict, name: str = "train/loss") -> list[float]:
    return [metrics[name] for _, _, metrics in sorted(result["points"])]
