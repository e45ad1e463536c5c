"""One stage of the grid search: the same trial at each value of one axis, the best of them chosen."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from mmpo_train.config import TrialConfig, digest_of, parse_assignments, replace
from mmpo_train.errors import InputError
from mmpo_train.options import base_config
from mmpo_train.recipes import objective_settings
from mmpo_train.terminal import console, preparing, print_examples
from sweeps.cluster import local_resources, plan_resources
from sweeps.conclusion import conclude, print_next
from sweeps.options import FLUSH_SECONDS, SweepOptions, experiment_name, same_arguments
from sweeps.planned import Planned, find_records, train_planned, unfinished
from sweeps.preflight import check_disk, check_judges, check_suites, list_trials


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
    next_command: str = ""
    """The command of the stage after this one."""

    def trials(self, base: TrialConfig) -> list[TrialConfig]:
        """One config for each value, in grid order. Raises InputError for a value that is given twice."""
        repeated = sorted({shown(value) for value in self.values if self.values.count(value) > 1})
        if repeated or not self.values:
            given = f"has {', '.join(repeated)} twice" if repeated else "is empty"
            raise InputError(f"--{self.axis.replace('_', '-')}s {given}; give each value of the grid once")
        return [replace(base, {self.axis: value}) for value in self.values]

    def label(self, trial: TrialConfig) -> str:
        """A trial's place on the axis, as the table, the picture and MLflow name it."""
        value = getattr(trial, self.axis)
        if not self.log_axis:
            return shown(value)
        mantissa, exponent = f"{value:.4e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def shown(value: Any) -> str:
    """A value of an axis as text."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()


def run_stage(stage: Stage, options: SweepOptions) -> None:
    """Train what the ledger does not have yet, rank all, record the winner and say what comes next.

    Raises InputError before anything is started where the user's input is at fault.
    """
    from mmpo_train.prepare import build_starting_model, identify
    from sweeps.tracking import connect

    cpus, gpus = local_resources()
    base = stage_config(stage, options, "bf16" if gpus else "fp32")
    inputs = identify(base, options.storage, strict=options.strict, drop_bad_rows=options.drop_bad_rows)
    trials = stage.trials(inputs.config)
    check_judges(trials, with_keys=not options.dry_run)
    elsewhere = "RAY_ADDRESS" in os.environ  # that cluster's size is known once it is reached
    resources = None if elsewhere else plan_resources(cpus, gpus, options.workers_per_trial, options.concurrent_trials)
    if options.dry_run:
        list_trials(stage, trials, inputs, resources, options.workers_per_trial)
        return
    check_disk(inputs, trials=0)  # the ledger itself needs room
    check_suites(base, options.evaluation, options.storage)
    experiment = experiment_name(base)
    ledger = connect(options.tracking_uri or None, options.storage)
    try:
        planned = [
            Planned(trial, inputs, stage.label(trial), f"{stage.short_axis}={stage.label(trial)}") for trial in trials
        ]
        todo = unfinished(planned, find_records(ledger, experiment, planned))
        check_disk(inputs, len(todo))
        _announce(stage, base, experiment, len(trials), len(todo))
        log = ledger.open_stage(
            experiment,
            stage.name,
            base.objective,
            digest_of([stage.name, *(trial.digest for trial in trials)]),
            title=f"{stage.name} {base.objective}",
            params={"axis": stage.axis, "values": ", ".join(map(shown, stage.values))},
            note=stage.title,
        )
        try:
            if todo:
                baselines = train_planned(todo, options, ledger, log, title=base.objective, axis=stage.axis)
                scores = baselines[todo[0].digest]
                log.tag({f"baseline.{name}": round(scores[name], 6) for name in ("reward_accuracy", "policy_accuracy")})
            elif options.show_examples:
                with preparing() as say:
                    build_starting_model(inputs, say)
                print_examples(inputs, options.show_examples)
            ledger.flush(FLUSH_SECONDS)
            known = find_records(ledger, experiment, planned)
            ranking = conclude(stage, experiment, known, trials, log, options.storage)
        except BaseException as error:  # Ctrl-C too: a run that says RUNNING for ever would be a lie
            log.fail("interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}")
            raise
        print_next(stage, ranking, same_arguments(options), ledger.ui_command(), ledger.page(experiment))
    finally:
        ledger.close()
    if ranking.winner is None:
        reasons = sorted({record.reason for record in known.values() if record.reason})
        raise InputError(f"{ranking.reason} Reasons: {'; '.join(reasons)}")


def _announce(stage: Stage, base: TrialConfig, experiment: str, trials: int, todo: int) -> None:
    kept = ""
    if todo < trials:
        kept = f", {trials - todo} of them finished already" + ("" if todo else ": nothing to train")
    console.print(f"[bold]{stage.title}[/]: {base.objective}, {experiment}, {trials} trials{kept}", highlight=False)


def stage_config(stage: Stage, options: SweepOptions, precision: str) -> TrialConfig:
    """The config that the stage's trials share. What the user sets goes before the stage's own settings."""
    assigned = parse_assignments(options.set)
    if stage.axis in assigned:
        raise InputError(
            f"--set {stage.axis}=… is what {stage.name} varies; give its values with --{stage.axis.replace('_', '-')}s"
        )
    own = stage.settings | objective_settings(options.objective)
    settings = {name: value for name, value in own.items() if name not in assigned}
    base = replace(base_config(options), settings)
    return replace(base, {"precision": precision}) if base.precision == "auto" else base
