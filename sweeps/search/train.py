"""The trials of a command: those that the ledger has finished, and the training of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.config import TrialConfig
from mmpo_train.tables import for_terminal
from mmpo_train.terminal import console, print_text
from mmpo_train.trial.places import Places
from mmpo_train.typed.programs import as_typed
from sweeps.cluster.placement import hardware
from sweeps.cost.arithmetic import Forecast, compared
from sweeps.cost.evaluations import left_out
from sweeps.cost.of_trials import hours_of
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.records import COMPLETE, TrialRecord
from sweeps.ledger.stage_log import StageLog
from sweeps.ledger.tags import HARDWARE, TRAINING
from sweeps.ledger.trial_log import TrialLog
from sweeps.live.clones import clone_table, clone_tags, clones_of, parent_of, planned_clone
from sweeps.live.control import Control
from sweeps.plan.options import SweepOptions
from sweeps.plan.trials import Planned
from sweeps.search.look import Look, look
from sweeps.trials.board import Board, Row
from sweeps.trials.evaluators import actors_needed
from sweeps.trials.listener import GoesOn, Listener
from sweeps.trials.runner import Runner
from sweeps.trials.work import Work

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs


def find_records(ledger: Ledger, experiment: str, trials: Iterable[Planned]) -> dict[str, TrialRecord]:
    """Digest -> record of the trials that the ledger knows."""
    return ledger.find_trials(experiment, list({trial.digest: None for trial in trials}))


def unfinished(trials: Iterable[Planned], records: dict[str, TrialRecord]) -> list[Planned]:
    """The trials that have to be trained, each once, in the given order.

    They include finished trials whose evaluations are incomplete: these have their checkpoints, and are only evaluated.
    """
    todo: dict[str, Planned] = {}
    for trial in trials:
        record = records.get(trial.digest)
        wanted = set(trial.config.evaluations) - {"reward"}
        done = record is not None and record.status in COMPLETE
        if record is None or not done or (record.status == "finished" and wanted - record.judged_by):
            todo.setdefault(trial.digest, trial)
    return list(todo.values())


def say_held(trials: Iterable[Planned], records: dict[str, TrialRecord]) -> None:
    """Print how those trials go on that a person has stopped."""
    for trial in trials:
        if (record := records.get(trial.digest)) is not None and record.held:
            go = as_typed(f"mmpo go {record.run_id}")
            print_text(f"{trial.label} {record.reason}; to go on: {go}, then the same command")


def clones_left(trials: Iterable[Planned], ledger: Ledger, experiment: str, log: StageLog) -> list[Planned]:
    """The clones of the trials that an interrupted command has left; not those that a person has stopped."""
    clones = clones_of(trials, ledger.find_clones(experiment, log.run_id))
    return [clone for clone, record in clones if record.status not in COMPLETE and not record.held]


def show_clones(trials: Iterable[Planned], ledger: Ledger, experiment: str, log: StageLog) -> None:
    """List the clones of the trials apart from these, on the screen and in the stage's run."""
    if clones := clones_of(trials, ledger.find_clones(experiment, log.run_id)):
        table = clone_table(clones)
        console.print(for_terminal(table))
        log.log_table("clones", dict(zip(table.headers, zip(*table.rows, strict=True), strict=True)))


def train_planned(
    todo: Sequence[Planned],
    options: SweepOptions,
    runner: Runner,
    ledger: Ledger,
    log: StageLog,
    *,
    title: str,
    axis: str,
    judge: str = "",
    goes_on: GoesOn | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
    """Prepare what the trials need and have them trained and judged; their records are in the ledger then.

    `check` is called when the inputs exist, before anything is trained. Returns the starting model's metrics by each
    trial's objective: digest -> metrics.
    """
    evaluators = actors_needed([trial.config for trial in todo], options.evaluation, judge)
    resources = runner.place(options, evaluators)
    places: dict[int, Places] = {}
    audited: set[Path] = set()
    for one in {id(trial.inputs): trial.inputs for trial in todo}.values():
        seen = look(one, options, runner)
        places[id(one)], _ = runner.prepare(one, resources)
        if places[id(one)].tokens not in audited:  # objectives may need other things made of the same data
            audited.add(places[id(one)].tokens)
            _log_audit(one, seen, log, "audit.json" if len(audited) == 1 else f"audit-{len(audited)}.json")
    check()
    ledger.require_free([trial.digest for trial in todo])
    planned = {trial.digest: trial for trial in todo}
    trials = {trial.digest: (trial.config, places[id(trial.inputs)]) for trial in todo}
    rows = {trial.digest: Row(trial.label, trial.config.epochs) for trial in todo}

    opened: dict[str, TrialLog] = {}

    def open_log(digest: str) -> TrialLog:
        trial, _ = listener.trials[digest]
        assert isinstance(trial, TrialConfig)
        parent, tags, run = planned.get(parent_of(trial)[0]), {HARDWARE: str(hardware(resources))}, ""
        if parent is not None and parent.digest in opened:  # a new clone, or one after an interruption
            planned.setdefault(trial.digest, planned_clone(parent, trial))
            run = opened[parent.digest].run_id or ""
            tags |= clone_tags(parent, run, trial, log.run_id)
        one = planned[trial.digest]
        opened[one.digest] = log.open_trial(trial, one.run_name, tags | {TRAINING: one.training}, below=run)
        return opened[one.digest]

    board = Board(console, f"{title}, {resources} each", axis, rows, resources.concurrent)
    work = Work(trials=trials, options=options, resources=resources, judge=judge)
    listener = Listener(work, open_log, board, goes_on, Control(log.asked, stops_only=goes_on is not None))
    return runner.train(work, listener)


def say_forecast(forecast: Forecast, todo: Sequence[Planned], options: SweepOptions, judge: str = "") -> None:
    """Print what training will cost, and what else there is to do and to pay."""
    for line in filter(None, (str(forecast), forecast.evaluation_text, left_out(todo, options.evaluation, judge))):
        print_text(line)


def say_cost(
    forecast: Forecast,
    records: Mapping[str, TrialRecord],
    digests: Sequence[str],
    log: StageLog | TrialLog,
    accelerators: float,
) -> None:
    """Print what training was forecast to cost and what it cost, and tag the stage or the trial with both."""
    hours = hours_of(records, digests, accelerators)
    if hours is None:
        print_text("cost: not known, as not all of these trials finished")
        return
    print_text(compared(forecast, hours))
    both = {"forecast.hours": f"{forecast.trial_hours:.4g}", "cost.hours": f"{hours:.4g}"}
    log.tag({**both, "forecast.source": forecast.source})


def _log_audit(inputs: Inputs, seen: Look, log: StageLog, path: str) -> None:
    tokens = {split: vars(count) for split, count in seen.counts.items()}
    log.log_json(path, {"rows": inputs.data.audit.as_dict(), "tokens": tokens})
    if seen.examples:
        log.log_table("examples", seen.examples)
