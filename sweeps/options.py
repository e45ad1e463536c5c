"""The command-line options that all sweeps share, and what follows from them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from eval_workers.suites import EvaluationSettings
from mmpo_train.config import TrialConfig
from mmpo_train.options import Options
from sweeps.addresses import masked

FLUSH_SECONDS = 120.0
"""How long the end of a sweep waits for MLflow."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """What every stage script takes."""

    workers_per_trial: int = 1
    """DeepSpeed workers of one trial: GPUs, or CPU cores where there is none."""
    concurrent_trials: int = 0
    """Trials that run at a time; 0 for as many as fit."""
    tracking_uri: str = ""
    """MLflow server or database, instead of <storage>/mlflow.db."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the evaluators work that --set evaluations=reward,harness,alpaca,arena names."""
    dry_run: bool = False
    """List the trials and what each asks for; start nothing."""
    verbose: bool = False
    """Let the libraries speak."""


def experiment_name(config: TrialConfig) -> str:
    """One MLflow experiment for each model and dataset."""
    datasets = "+".join(Path(source).name for source in config.dataset)
    return f"{Path(config.model).name} on {datasets}"


def same_arguments(options: SweepOptions) -> str:
    """The options that the next command must repeat to go on with the same model and data."""
    words = []
    for name in ("objective", "model", "seed", "storage", "tracking_uri"):
        value = getattr(options, name)
        if value != SweepOptions.__dataclass_fields__[name].default:
            words += [f"--{name.replace('_', '-')}", shlex.quote(masked(str(value)))]
    for name in ("dataset", "set"):
        words += [word for value in getattr(options, name) for word in (f"--{name}", shlex.quote(value))]
    return "".join(f" {word}" for word in words)
