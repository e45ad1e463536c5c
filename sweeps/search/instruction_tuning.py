"""Stage 0: one instruction tuning, found in the ledger or trained, and its model's folder."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmpo_train.errors import InputError
from mmpo_train.metric_names import VALIDATION_LOSS
from mmpo_train.model.folders import copy_model
from mmpo_train.options import assigned_fields, templated
from mmpo_train.recipes import find_recipe
from mmpo_train.redaction import masked
from mmpo_train.sft.trial import SFTTrial, change, sft_trial
from mmpo_train.storage.manifest import write_folder
from mmpo_train.storage.mirror import address_of, bring, is_here, place_of, publish
from mmpo_train.terminal import console, preparing
from mmpo_train.typed.programs import as_typed
from sweeps.cluster.connection import cluster, leave, trial_resources
from sweeps.cluster.placement import hardware, wish_of
from sweeps.cost.arithmetic import Forecast, compared
from sweeps.cost.of_trials import forecast_trials, hours_of
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import FLUSH_SECONDS
from sweeps.ledger.tags import HARDWARE
from sweeps.plan.commands import command
from sweeps.plan.options import SFTOptions, SweepOptions
from sweeps.search.checks import check_disk, check_storage

if TYPE_CHECKING:
    from mmpo_train.sft.prepare import SFTInputs
    from sweeps.ledger.ledger import Ledger
    from sweeps.ledger.records import TrialRecord
    from sweeps.ledger.trial_log import TrialLog


STAGE = "stage0_sft"


class Tuning(NamedTuple):
    """One instruction tuning with its inputs."""

    config: SFTTrial
    inputs: SFTInputs


def run_stage0(options: SFTOptions) -> None:
    """Tune the model unless the ledger has it, and print the next command.

    Raises InputError for a user's mistake before anything is started.
    """
    try:
        _run(options)
    finally:
        leave()


def _run(options: SFTOptions) -> None:
    from mmpo_train.sft.prepare import identify_sft
    from sweeps.ledger.ledger import connect, connect_to_read

    check_storage(options)
    resources = trial_resources(wish_of(options), dry_run=options.dry_run, verbose=options.verbose)
    trial = trial_of(options, resources.precision)
    inputs = identify_sft(trial, options.folder, strict=options.strict, drop_bad_rows=options.drop_bad_rows)
    trial = inputs.config
    console.print("\n".join(inputs.data.audit.lines()), style="dim", highlight=False, soft_wrap=True)
    if options.dry_run:
        found = connect_to_read(options.tracking_uri or None, options.folder)
        experiment = experiment_of(found, inputs)
        _say_what(inputs, experiment)
        if found is not None and _is_done(found.look_up(experiment, trial.digest)):
            console.print("finished already: nothing to tune; nothing was started")
            return
        forecast = forecast_trials([Tuning(trial, inputs)], options, resources, found)
        console.print(str(forecast), highlight=False, soft_wrap=True)
        console.print("nothing was started")
        return
    check_disk(inputs, trials=0)  # the ledger itself needs room
    ledger = connect(options.tracking_uri or None, options.folder)
    try:
        experiment = experiment_of(ledger, inputs, create=True)
        _say_what(inputs, experiment)
        record = ledger.find_trial(experiment, trial.digest)
        if not _is_done(record):
            check_disk(inputs, trials=1)
            forecast, log = _train(options, inputs, ledger, experiment)
            ledger.flush(FLUSH_SECONDS)
            record = ledger.find_trial(experiment, trial.digest)
            _compare(forecast, record, resources.accelerators, log)
        assert record is not None and record.evaluations
        last = max(record.evaluations, key=lambda evaluation: evaluation.epoch)
        folder = _named(options.folder, trial, place_of(last.checkpoint))
        console.print(
            f"\nvalidation loss {last.metrics[VALIDATION_LOSS]:.4f} nats a token: {address_of(folder) or folder}",
            highlight=False,
        )
        console.print("\nnext:", style="bold")
        for typed in (_next_command(options, folder), ledger.ui_command()):
            console.print(f"  {as_typed(typed)}", highlight=False, soft_wrap=True, markup=False)
        console.print(f"  {ledger.page(experiment)}", highlight=False, soft_wrap=True, markup=False)
    finally:
        ledger.close()


def _say_what(inputs: SFTInputs, experiment: str) -> None:
    trial = inputs.config
    steps = math.ceil(inputs.data.audit.train / trial.conversations_per_step) * trial.epochs
    console.print(
        f"[bold]Stage 0, instruction tuning[/]: {experiment}, recipe {trial.recipe}, {trial.epochs} epochs, {steps} "
        f"steps, learning rate {trial.learning_rate:g}, trial {trial.digest}",
        highlight=False,
    )


def trial_of(options: SFTOptions, precision: str) -> SFTTrial:
    """The trial that the options describe. Raises InputError naming every bad field."""
    named = {"seed": options.seed, **({"dataset": options.dataset} if options.dataset else {})}
    recipe = find_recipe(options.model, options.recipe)
    trial = sft_trial(recipe, templated(options), named | assigned_fields(options))
    return change(trial, {"precision": precision}) if trial.precision == "auto" else trial


def _is_done(record: TrialRecord | None) -> bool:
    """Whether its last checkpoint is there. Raises InputError where the tuning is known to diverge."""
    if record is not None and record.status == "diverged":
        raise InputError(f"this instruction tuning diverged: {record.reason}; lower --set learning_rate=…")
    if record is None or record.status != "finished" or not record.evaluations:
        return False
    return is_here(place_of(max(record.evaluations, key=lambda evaluation: evaluation.epoch).checkpoint))


def _compare(forecast: Forecast, record: TrialRecord | None, accelerators: float, log: TrialLog) -> None:
    """Say, and tag the tuning with, what was foreseen and what it cost."""
    hours = hours_of({record.digest: record}, [record.digest], accelerators) if record is not None else None
    if hours is not None:
        console.print(compared(forecast, hours), highlight=False, soft_wrap=True)
        foreseen = {"forecast.hours": f"{forecast.hours:.4g}", "forecast.source": forecast.source}
        log.tag({**foreseen, "cost.hours": f"{hours:.4g}"})


def _train(options: SFTOptions, inputs: SFTInputs, ledger: Ledger, experiment: str) -> tuple[Forecast, TrialLog]:
    from mmpo_train.config import to_dict
    from mmpo_train.sft.prepare import materialise_sft
    from sweeps.ledger.trial_log import now_ms
    from sweeps.trials.sft_training import train_sft

    trial = inputs.config
    with cluster(options.verbose):
        resources = trial_resources(wish_of(options))
        with preparing() as say:
            places, counts = materialise_sft(inputs, say)
        lines = [line for split, count in counts.items() for line in count.lines(split)]
        console.print("\n".join(lines), style="dim", highlight=False, soft_wrap=True)
        forecast = forecast_trials([Tuning(trial, inputs)], options, resources, ledger)
        console.print(str(forecast), highlight=False, soft_wrap=True)
        values = {key: masked(value) if isinstance(value, str) else value for key, value in to_dict(trial).items()}
        opened = {
            "kind": "opened",
            "timestamp_ms": now_ms(),
            "experiment": experiment,
            "parent": "",
            "name": f"sft {Path(trial.model).name}",
            "tags": {"stage.name": STAGE, "recipe": trial.recipe, HARDWARE: str(hardware(resources))},
            "config": values,
            "log10_learning_rate": round(math.log10(trial.learning_rate), 4),
        }
        log = ledger.open_trial(opened, trial.digest)
        state, reason = train_sft(trial, places, options.folder, resources, log)
    if state == "diverged":
        raise InputError(f"the instruction tuning diverged: {reason}; lower --set learning_rate=…")
    if state == "failed":
        raise InputError(f"the instruction tuning failed: {reason}; the same command goes on from the last epoch")
    return forecast, log


def _named(storage: Path, trial: SFTTrial, checkpoint: Path) -> Path:
    """The tuned model under a name that says what it is: a link, or a copy that other nodes find too."""
    link = storage / "models" / f"{Path(trial.model).name}-sft-{trial.digest[:8]}"
    if address_of(storage):
        if not is_here(link):
            write_folder(link, lambda staging: copy_model(bring(checkpoint), staging))
        publish(link)
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(checkpoint, link.parent.resolve())
    if not link.is_symlink() or os.readlink(link) != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return link


def _next_command(options: SFTOptions, folder: Path) -> str:
    model, uri = address_of(folder) or str(folder), options.tracking_uri
    return command("stage1_lr", SweepOptions(model=model, storage=options.storage, tracking_uri=uri))
