"""The options of `python -m eval_workers`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eval_workers.suites import EvaluationSettings, Suite
from mmpo_train.options import STORAGE, Stored


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EvaluationSettings, Stored):
    """Judge checkpoints and say what they score."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoint folders, folders with Hugging Face models, hub ids, or tiny."""
    suite: tuple[Suite, ...] = ("reward",)
    """What to judge them by."""
    starting_model: str = ""
    """What answers are compared with. Default: the model that the checkpoint was trained from."""
    dataset: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Preference data for the reward suite. Default: what the checkpoint was trained on."""
    storage: str = STORAGE
    """Where models, token tables, answers and verdicts are kept: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH."""
    output: Path = Path("runs/evaluations")
    """Folder for tables and samples, one below it for each path."""
    mlflow_uri: str = ""
    """Also record a run for each path at this MLflow address."""
