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
from mmpo_train.recipes import find_recipe
from sweeps.addresses import masked
from sweeps.placement import Wish

FLUSH_SECONDS = 120.0
"""How long the end of a sweep waits for MLflow while nothing gets through."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """What every stage script takes."""

    workers_per_trial: int = 0
    """DeepSpeed workers of one trial, on one node: GPUs, or CPU cores where there is none. Default: the recipe's; on a
    single machine that has fewer, as many as fit."""
    min_workers_per_trial: int = 0
    """Trials are elastic: they begin, and after a lost node go on, with as few workers while a node has no room for
    more. The same results, later. 0: they wait for all."""
    accelerator: str = ""
    """Type of the workers' GPUs as Ray names it, such as L40S; L40 takes L40 or L40S, any takes what there is. Default:
    the recipe's on a cluster, any on a single machine."""
    concurrent_trials: int = 0
    """Trials that run at a time; 0 for as many as fit."""
    seeds: int = 1
    """Every trial so many times, with --seed and the ones after it."""
    tracking_uri: str = ""
    """MLflow server or database. Default: MLFLOW_TRACKING_URI, or <storage>/mlflow.db."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the evaluators work that --set evaluations=reward,harness,alpaca,arena names."""
    price_per_gpu_hour: float | None = None
    """What an hour of one GPU costs, in any currency, for the forecast."""
    dry_run: bool = False
    """List the trials, what each asks for and what they will cost; start nothing."""
    verbose: bool = False
    """Let the libraries speak."""


def wish_of(options: SweepOptions) -> Wish:
    """What the options and the recipe say of a trial's place."""
    return Wish(
        recipe=find_recipe(options.model, options.recipe),
        workers=options.workers_per_trial,
        min_workers=options.min_workers_per_trial,
        accelerator=options.accelerator,
        concurrent=options.concurrent_trials,
    )


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
