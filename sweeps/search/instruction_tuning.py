"""Stage 0: one instruction tuning, found in the ledger or trained, and its model's folder."""

from __future__ import annotations

import math
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmpo_train.errors import InputError
from mmpo_train.metric_names import VALIDATION_LOSS
from mmpo_train.model.folders import copy_model
from mmpo_train.options import assigned_fields, templated
from mmpo_train.recipes import find_recipe
from mmpo_train.sft.trial import SFTTrial, change, sft_trial
from mmpo_train.storage.mirror import address_of, bring, ensure, is_here, place_of, publish
from mmpo_train.terminal import console, print_text, tell
from sweeps.cluster.nodes import counted
from sweeps.cluster.placement import hardware
from sweeps.cost.of_trials import forecast_trials
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import FLUSH_SECONDS, Ledger, connect, connect_to_read
from sweeps.ledger.records import Evaluation, TrialRecord
from sweeps.ledger.tags import HARDWARE
from sweeps.ledger.trial_log import opening
from sweeps.plan.commands import command, print_next
from sweeps.plan.options import SFTOptions, SweepOptions
from sweeps.plan.order import STAGE_0
from sweeps.search.checks import check_disk, check_storage
from sweeps.search.look import OPENING, READING, look
from sweeps.search.train import say_cost
from sweeps.trials.board import Board, Row
from sweeps.trials.listener import Listener
from sweeps.trials.runner import Runner, running
from sweeps.trials.work import Work

if TYPE_CHECKING:
    from mmpo_train.sft.prepare import SFTInputs


class Tuning(NamedTuple):
    """One instruction tuning with its inputs."""

    config: SFTTrial
    inputs: SFTInputs


def run_stage0(options: SFTOptions) -> None:
    """Tune the model unless the ledger has it, and print the next command.

    Raises InputError for a user's mistake before anything is started.
    """
    with running(options) as runner:
        _run(runner, options)


def _run(runner: Runner, options: SFTOptions) -> None:
    check_storage(options)
    resources = runner.place(options)
    trial = trial_of(options, resources.precision)
    tell(READING)
    from mmpo_train.sft.prepare import identify_sft

    inputs = identify_sft(trial, options.folder, strict=options.strict, drop_bad_rows=options.drop_bad_rows)
    trial = inputs.config
    if options.dry_run:
        look(inputs, options, runner)
        found = connect_to_read(options.tracking_uri, options.folder)
        experiment = experiment_of(found, inputs)
        _say_what(inputs, experiment)
        if found is not None and _last(found.look_up(experiment, trial.digest)):
            print_text("finished already: nothing to tune; nothing was started")
            return
        print_text(str(forecast_trials([Tuning(trial, inputs)], options, resources, found)))
        print_text("nothing was started")
        return
    check_disk(inputs, trials=0)  # the ledger itself needs room
    tell(OPENING)
    with closing(connect(options.tracking_uri, options.folder)) as ledger:
        experiment = experiment_of(ledger, inputs, create=True)
        _say_what(inputs, experiment)
        last = _last(ledger.find_trial(experiment, trial.digest))
        if last is None:
            check_disk(inputs, trials=1)
            last = _train(runner, options, inputs, ledger, experiment)
        folder = _named(options.folder, trial, place_of(last.checkpoint))
        model = address_of(folder) or str(folder)
        print_text(f"\nvalidation loss {last.metrics[VALIDATION_LOSS]:.4f} nats a token: {model}")
        uri = options.tracking_uri
        following = command("stage1_lr", SweepOptions(model=model, storage=options.storage, tracking_uri=uri))
        print_next(following, ledger.ui_command(), ledger.page(experiment))


def _say_what(inputs: SFTInputs, experiment: str) -> None:
    trial = inputs.config
    steps = math.ceil(inputs.data.audit.train / trial.conversations_per_step) * trial.epochs
    work = f"{counted(trial.epochs, 'epoch')}, {counted(steps, 'step')}, learning rate {trial.learning_rate:g}"
    said = f"{experiment}, recipe {trial.recipe}, {work}, trial {trial.digest}"
    console.print(f"[bold]Stage 0, instruction tuning[/]: {said}", highlight=False)


def trial_of(options: SFTOptions, precision: str) -> SFTTrial:
    """The trial that the options describe. Raises InputError naming every bad field."""
    named = {"seed": options.seed, **({"dataset": options.dataset} if options.dataset else {})}
    recipe = find_recipe(options.model, options.recipe)
    trial = sft_trial(recipe, templated(options), named | assigned_fields(options))
    return change(trial, {"precision": precision}) if trial.precision == "auto" else trial


def _last(record: TrialRecord | None) -> Evaluation | None:
    """The last checkpoint of a finished tuning, if it exists. Raises InputError if the tuning diverged."""
    if record is not None and record.status == "diverged":
        raise InputError(f"this instruction tuning diverged: {record.reason}; lower --set learning_rate=…")
    if record is None or record.status != "finished" or not record.evaluations:
        return None
    last = max(record.evaluations, key=lambda evaluation: evaluation.epoch)
    return last if is_here(place_of(last.checkpoint)) else None


def _train(runner: Runner, options: SFTOptions, inputs: SFTInputs, ledger: Ledger, experiment: str) -> Evaluation:
    """Tune the model to the end; returns the record of its last checkpoint."""
    trial, resources = inputs.config, runner.place(options)
    look(inputs, options, runner)
    places, _ = runner.prepare(inputs, resources)
    forecast = forecast_trials([Tuning(trial, inputs)], options, resources, ledger)
    print_text(str(forecast))
    tags = {"stage.name": STAGE_0, "recipe": trial.recipe, HARDWARE: str(hardware(resources))}
    name = Path(trial.model).name
    work = Work(trials={trial.digest: (trial, places)}, options=options, resources=resources)
    rows = {trial.digest: Row(name, trial.epochs, tuning=True)}
    board = Board(console, f"instruction tuning, {resources}", "tuning", rows, 1)
    opened = opening(trial, experiment, f"sft {name}", tags)
    listener = Listener(work, lambda digest: ledger.open_trial(opened, digest), board)
    runner.train(work, listener)
    ledger.flush(FLUSH_SECONDS)
    record = ledger.find_trial(experiment, trial.digest)
    assert record is not None
    if record.status == "failed":
        raise InputError(f"instruction tuning failed: {record.reason}; the same command goes on from the last epoch")
    last = _last(record)
    assert last is not None
    say_cost(forecast, {trial.digest: record}, [trial.digest], listener.logs[trial.digest], resources.accelerators)
    return last


def _named(storage: Path, trial: SFTTrial, checkpoint: Path) -> Path:
    """The tuned model under a name that says what it is: a link, or a copy that other nodes find too."""
    link = storage / "models" / f"{Path(trial.model).name}-sft-{trial.digest[:8]}"
    if address_of(storage):
        ensure(link, lambda staging: copy_model(bring(checkpoint), staging))
        publish(link)
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(checkpoint, link.parent.resolve())
    if not link.is_symlink() or os.readlink(link) != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return link
