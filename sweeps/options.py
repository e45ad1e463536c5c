"""The command-line options that all sweeps share, and what follows from them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    seeds: int = 1
    """Every trial so many times, with --seed and the ones after it."""
    tracking_uri: str = ""
    """MLflow server or database, instead of <storage>/mlflow.db."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the evaluators work that --set evaluations=reward,harness,alpaca,arena names."""
    price_per_gpu_hour: float | None = None
    """What an hour of one GPU costs, in any currency, for the forecast."""
    dry_run: bool = False
    """List the trials, what each asks for and what they will cost; start nothing."""
    verbose: bool = False
    """Let the libraries speak."""


def experiment_name(config: TrialConfig) -> str:
    """One MLflow experiment for each model and dataset."""
    datasets = "+".join(Path(source).name for source in config.dataset)
    return f"{Path(config.model).name} on {datasets}"


def arguments_of(options: Any, leave_out: Collection[str] = (), settled: Collection[str] = ()) -> str:
    """The options that differ from their defaults, as they are typed; secrets are masked.

    `leave_out` names options, `settled` fields that --set must not repeat.
    """
    words: list[str] = []
    for path, value in _given(options, ""):
        name = path.rpartition(".")[2]
        typed = f"--{path.replace('_', '-')}"
        if name in leave_out:
            continue
        if isinstance(value, bool):
            words.append(typed if value else f"--{path[: -len(name)]}no-{name}".replace("_", "-"))
        elif name in ("dataset", "set"):
            kept = [one for one in value if name != "set" or one.partition("=")[0].strip() not in settled]
            words += [word for one in kept for word in (typed, shlex.quote(masked(one)))]
        elif isinstance(value, tuple):
            words += [typed, *(shlex.quote(masked(str(one))) for one in value)]
        else:
            words += [typed, shlex.quote(masked(str(value)))]
    return "".join(f" {word}" for word in words)


def shared_options(options: SweepOptions) -> SweepOptions:
    """What every sweep takes of a script's options, but for those that only look."""
    own = {one.name: getattr(options, one.name) for one in dataclasses.fields(SweepOptions)}
    return SweepOptions(**own | {"dry_run": False, "verbose": False, "show_examples": 0})


def _given(options: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for one in dataclasses.fields(options):
        value = getattr(options, one.name)
        if dataclasses.is_dataclass(value):
            yield from _given(value, f"{prefix}{one.name}.")
        elif value != one.default:
            yield f"{prefix}{one.name}", value
