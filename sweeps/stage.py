"""One stage of the grid search: the same trial at each value of one axis, the best of them chosen."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.config import TrialConfig, digest_of, replace
from mmpo_train.errors import InputError
from mmpo_train.options import Options, base_config
from sweeps.cluster import TrialResources, cluster, local_resources, map_on_cluster, plan_resources

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs
    from sweeps.tracking import Ledger, StageLog, TrialRecord


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """What every stage script takes."""

    workers_per_trial: int = 1
    """DeepSpeed workers of one trial: GPUs, or CPU cores where there is none."""
    concurrent_trials: int = 0
    """Trials that run at a time; 0 for as many as fit."""
    tracking_uri: str | None = None
    """MLflow server or database. Default: <storage>/mlflow.db."""
    dry_run: bool = False
    """List the trials and what each asks for; start nothing."""
    verbose: bool = False
    """Let the libraries speak."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: which field of a trial it varies, over which values, with which others fixed."""

    name: str
    title: str
    axis: str
    values: tuple[Any, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    next_command: str
    """What comes after, with {value} for the winner's."""

    def trials(self, base: TrialConfig) -> list[TrialConfig]:
        """One config for each value, in grid order."""
        return [replace(base, {self.axis: value}) for value in self.values]
