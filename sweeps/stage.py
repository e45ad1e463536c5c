"""One stage of the grid search: the same trial at each value of one axis, the best of them chosen."""

from __future__ import annotations

import math
import os
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mmpo_train.config import TrialConfig, digest_of, parse_assignments, replace
from mmpo_train.errors import InputError
from mmpo_train.options import Options, base_config
from mmpo_train.terminal import console, preparing, print_examples
from sweeps.board import Board, Row
from sweeps.cluster import TrialResources, cluster, local_resources, map_on_cluster, plan_resources
from sweeps.conclusion import conclude, label_of, print_next

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs
    from sweeps.stage_log import StageLog
    from sweeps.tracking import TrialRecord

_FLUSH_SECONDS = 120.0
_TINY_BYTES = 5_000_000
_OVERHEAD_BYTES = 50_000_000


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
    short_axis: str
    """The axis in MLflow's run names, where labels are cut at ten characters."""
    values: tuple[Any, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields that the stage fixes unless the user sets them."""
    log_axis: bool = False
    """Whether the axis is drawn logarithmically."""
    next_command: str
    """The command of the stage after this one."""

    def trials(self, base: TrialConfig) -> list[TrialConfig]:
        """One config for each value, in grid order. Raises InputError for a value that is given twice."""
        repeated = sorted({f"{value:g}" for value in self.values if self.values.count(value) > 1})
        if repeated or not self.values:
            given = f"has {', '.join(repeated)} twice" if repeated else "is empty"
            raise InputError(f"--{self.axis.replace('_', '-')}s {given}; give each value of the grid once")
        return [replace(base, {self.axis: value}) for value in self.values]


def run_stage(stage: Stage, options: SweepOptions) -> None:
    """Train what the ledger does not have yet, rank all, record the winner and say what comes next.

    Raises InputError before anything is started where the user's input is at fault.
    """
    from mmpo_train.prepare import identify
    from sweeps.tracking import COMPLETE, connect

    cpus, gpus = local_resources()
    base = stage_config(stage, options, "bf16" if gpus else "fp32")
    inputs = identify(base, options.storage, strict=options.strict, drop_bad_rows=options.drop_bad_rows)
    trials = stage.trials(inputs.config)
    elsewhere = "RAY_ADDRESS" in os.environ  # that cluster's size is known once it is reached
    resources = None if elsewhere else plan_resources(cpus, gpus, options.workers_per_trial, options.concurrent_trials)
    if options.dry_run:
        asks = str(resources) if resources else f"{options.workers_per_trial} workers of the cluster at RAY_ADDRESS"
        _list_trials(stage, trials, inputs, asks, resources.concurrent if resources else 0)
        return
    _check_disk(inputs, len(trials))
    experiment = experiment_name(base)
    ledger = connect(options.tracking_uri, options.storage)
    try:
        found = {trial.digest: ledger.find_trial(experiment, trial.digest) for trial in trials}
        todo = [trial for trial in trials if (record := found[trial.digest]) is None or record.status not in COMPLETE]
        kept = f", {len(trials) - len(todo)} of them finished already" if len(todo) < len(trials) else ""
        console.print(
            f"[bold]{stage.title}[/]: {base.objective}, {experiment}, {len(trials)} trials{kept}", highlight=False
        )
        log = ledger.open_stage(
            experiment,
            stage.name,
            base.objective,
            digest_of([stage.name, *(trial.digest for trial in trials)]),
            title=f"{stage.name} {base.objective}",
            params={"axis": stage.axis, "values": ", ".join(f"{value:g}" for value in stage.values)},
            note=stage.title,
        )
        try:
            if todo:
                with cluster(options.verbose) as (cpus, gpus):
                    resources = plan_resources(cpus, gpus, options.workers_per_trial, options.concurrent_trials)
                    _train(stage, inputs, todo, resources, log, options.show_examples)
            ledger.flush(_FLUSH_SECONDS)
            records = {trial.digest: ledger.find_trial(experiment, trial.digest) for trial in trials}
            known = {digest: record for digest, record in records.items() if record is not None}
            ranking = conclude(stage, experiment, known, trials, log, options.storage)
        except BaseException as error:
            log.fail(f"{type(error).__name__}: {error}")
            raise
        print_next(stage, ranking, _same_arguments(options), ledger.ui_command())
    finally:
        ledger.close()
    if ranking.winner is None:
        raise InputError(f"{ranking.reason} {_remedy(known)}")


def stage_config(stage: Stage, options: SweepOptions, precision: str) -> TrialConfig:
    """The config that the stage's trials share. What the user sets goes before the stage's own settings."""
    assigned = parse_assignments(options.set)
    if stage.axis in assigned:
        raise InputError(
            f"--set {stage.axis}=… is what {stage.name} varies; give its values with --{stage.axis.replace('_', '-')}s"
        )
    settings = {name: value for name, value in stage.settings.items() if name not in assigned}
    base = replace(base_config(options), settings)
    return replace(base, {"precision": precision}) if base.precision == "auto" else base


def experiment_name(config: TrialConfig) -> str:
    """One MLflow experiment for each model and dataset."""
    datasets = "+".join(Path(source).name for source in config.dataset)
    return f"{Path(config.model).name} on {datasets}"


def _train(
    stage: Stage, inputs: Inputs, todo: list[TrialConfig], resources: TrialResources, log: StageLog, show_examples: int
) -> None:
    from mmpo_train.prepare import materialise
    from sweeps.training import train_trials

    with preparing() as say:
        map_shards = map_on_cluster(resources.use_gpu, lambda share: say("reference log-probabilities", share))
        places, counts = materialise(inputs, map_shards, say)
    audit = inputs.data.audit.lines() + [line for split, count in counts.items() for line in count.lines(split)]
    console.print("\n".join(audit), style="dim", highlight=False, soft_wrap=True)
    log.log_json(
        "audit", {"rows": inputs.data.audit.as_dict(), "tokens": {name: vars(c) for name, c in counts.items()}}
    )
    if show_examples:
        log.log_table("examples", print_examples(inputs, show_examples))
    logs = {trial.digest: log.open_trial(trial, f"{stage.short_axis}={label_of(stage, trial)}", {}) for trial in todo}
    rows = {trial.digest: Row(label_of(stage, trial), trial.epochs) for trial in todo}
    title = f"{inputs.config.objective}, {resources.concurrent} trials at a time, {resources} each"
    board = Board(console, title, stage.axis, rows, resources.concurrent)
    baseline = train_trials(todo, places, inputs.storage, resources, logs, board)
    log.tag({f"baseline.{name}": value for name, value in baseline.items()})


def _list_trials(stage: Stage, trials: list[TrialConfig], inputs: Inputs, asks: str, concurrent: int) -> None:
    """What would run, and what each trial would ask for."""
    console.print("\n".join(inputs.data.audit.lines()), style="dim", highlight=False, soft_wrap=True)
    table = Table(title=f"{stage.title}: {len(trials)} trials of {trials[0].objective}", title_justify="left")
    for name in ("trial", stage.axis, "epochs", "steps", "asks for"):
        table.add_column(name, justify="right" if name != "asks for" else "left")
    for trial in trials:
        steps = math.ceil(len(inputs.data.train) / trial.pairs_per_step) * trial.epochs
        table.add_row(trial.digest, label_of(stage, trial), str(trial.epochs), str(steps), asks)
    console.print(table)
    together = f"{concurrent} at a time; " if concurrent else ""
    console.print(f"{together}nothing was started", highlight=False)


def _check_disk(inputs: Inputs, trials: int) -> None:
    """Refuse to start where the checkpoints cannot fit: a full disk found hours later costs those hours."""
    folder = inputs.storage.resolve()
    while not folder.exists():
        folder = folder.parent
    weights = sum(path.stat().st_size for path in inputs.model_folder.glob("*.safetensors")) or _TINY_BYTES
    # Checkpoints of all epochs, and weights and optimiser states to resume from.
    needed = _OVERHEAD_BYTES + trials * weights * (inputs.config.epochs + 4)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{inputs.storage} has {free / 1e6:,.0f} MB free, this stage writes up to {needed / 1e6:,.0f} MB; "
            "free some space, or give another folder with --storage"
        )


def _same_arguments(options: SweepOptions) -> str:
    """The options that the next command must repeat to go on with the same model and data."""
    words = []
    for name in ("objective", "model", "seed", "storage", "tracking_uri"):
        value = getattr(options, name)
        if value != SweepOptions.__dataclass_fields__[name].default:
            words += [f"--{name.replace('_', '-')}", shlex.quote(str(value))]
    for name in ("dataset", "set"):
        words += [word for value in getattr(options, name) for word in (f"--{name}", shlex.quote(value))]
    return "".join(f" {word}" for word in words)


def _remedy(records: dict[str, TrialRecord]) -> str:
    reasons = sorted({record.reason for record in records.values() if record.reason})
    return "Reasons: " + "; ".join(reasons) if reasons else ""
