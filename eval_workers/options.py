"""The options of `mmpo judge`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eval_workers.settings import EvaluationSettings
from mmpo_train.options import STORAGE, Stored


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EvaluationSettings, Stored):
    """Evaluate checkpoints or models, and print their scores."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoint folders, folders of Hugging Face models, hub ids, or tiny."""
    suite: tuple[str, ...] = ("reward",)
    """The evaluations to run: reward, harness, alpaca, arena, or one of a plug-in."""
    starting_model: str = ""
    """The model whose answers are the baseline. Default: the model that the checkpoint was trained from."""
    dataset: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Preference data for the reward suite. Default: the data that the checkpoint was trained on."""
    storage: str = STORAGE
    """Where to keep models, token tables, answers and verdicts: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH.
    Default: the value of MMPO_STORAGE, or runs."""
    plugin: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Plug-in with evaluations, judges or the checkpoint's objective: a Python file, or the name of an installed one.
    Default: none."""
    output: Path = Path("runs/evaluations")
    """Folder for tables and samples; each path gets a folder in it."""
    mlflow_uri: str = ""
    """MLflow address where each path is also recorded as a run. Default: none."""
