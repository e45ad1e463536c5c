"""The joint search: rounds of proposals that are trained and reported to the sampler, and the conclusion."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from mmpo_train.config import digest_of, identity, parse_assignments, replace
from mmpo_train.errors import InputError
from mmpo_train.metric_names import REWARD_ACCURACY
from mmpo_train.options import NotTaken, base_config, in_force
from mmpo_train.recipes import find_recipe
from mmpo_train.tables import for_terminal
from mmpo_train.terminal import console, print_text, tell
from mmpo_train.typed.options_file import CONFIG, WHERE, as_yaml
from mmpo_train.typed.programs import as_typed, program_of
from sweeps.cluster.head import with_last_words
from sweeps.cluster.nodes import counted
from sweeps.cost.of_trials import forecast_trials
from sweeps.grids import MARGINS, SEARCH_SETTINGS
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import FLUSH_SECONDS, Ledger, connect, connect_to_read
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.stage_log import StageLog
from sweeps.plan.labels import shown, words
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import TUNED, tuned_grids
from sweeps.plan.searches import key_of
from sweeps.plan.stages import known_objective
from sweeps.plan.trials import Planned
from sweeps.search.checks import check_disk, check_judges, check_storage, check_suites
from sweeps.search.joint_results import Tried, conclude, listed
from sweeps.search.look import OPENING, READING, inputs_of, look
from sweeps.search.train import find_records, say_forecast, train_planned, unfinished
from sweeps.trials.runner import Runner, running

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs
    from sweeps.search.proposals import Proposals, Range


NAME = "joint_search"
_AT_A_TIME_ELSEWHERE = 4
"""Proposals of a round if the cluster's size is not known yet."""


@dataclass(frozen=True, kw_only=True)
class JointOptions(SweepOptions):
    """Search learning rate, beta and margin together, and stop weak trials early."""

    varied: ClassVar[tuple[str, ...]] = TUNED

    seeds: Annotated[int, *NotTaken] = 1
    choose_by: Annotated[str, *NotTaken] = "reward_accuracy"
    train_all: Annotated[bool, *NotTaken] = False
    trials: int = 0
    """Number of trials. Default: as many as the three stages have points: 21 for MMPO, 10 for DPO, 16 for SimPO."""


def ranges_of(objective: str) -> dict[str, Range]:
    """The range of each stage's grid, from lowest to highest value; learning rate and beta are logarithmic."""
    from sweeps.search.proposals import Range

    grids = tuned_grids(objective)
    return {axis: Range(min(grids[axis]), max(grids[axis]), log=axis not in MARGINS) for axis in grids}


def budget_of(objective: str) -> int:
    """Number of points in the grids of the staged search."""
    return sum(map(len, tuned_grids(objective).values()))


@dataclass
class Search:
    """One joint search: its proposals and their results, in order."""

    options: JointOptions
    runner: Runner
    inputs: Inputs
    proposals: Proposals
    budget: int
    at_a_time: int
    tried: list[Tried] = field(default_factory=list)
    asked: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    """Digest -> number of each open proposal."""

    def next_round(self) -> list[Planned]:
        """The next proposals as trials; fewer at the end."""
        count = min(self.at_a_time, self.budget - self.asked)
        planned = []
        for _ in range(count):
            number, values = self.proposals.ask()
            self.asked += 1
            label = ", ".join(shown(name, value) for name, value in values.items())
            trial = Planned(replace(self.inputs.config, values), self.inputs, label, f"joint {number}")
            self.numbers[trial.digest] = number
            planned.append(trial)
        return planned

    def goes_on(self, digest: str, epoch: int, score: float) -> bool:
        """Whether a trial may continue after an epoch."""
        return self.proposals.goes_on(self.numbers[digest], epoch, score)

    def learn(self, planned: Sequence[Planned], records: dict[str, TrialRecord]) -> None:
        """Report the results of a round to the sampler, in the order of its proposals."""
        for trial in planned:
            record = records.get(trial.digest)
            scored = sorted(record.evaluations, key=lambda one: one.epoch) if record is not None else []
            known = [score for one in scored if (score := one.metrics[REWARD_ACCURACY]) is not None]
            state = record.status if record is not None else "failed"
            state = state if state != "finished" or known else "failed"
            number = self.numbers.pop(trial.digest)
            self.proposals.tell(number, known, state)
            values = {name: getattr(trial.config, name) for name in self.proposals.ranges}
            self.tried.append(Tried(number, trial.digest, values, tuple(known), state, record and record.reason or ""))


def to_train(planned: Sequence[Planned], records: dict[str, TrialRecord]) -> list[Planned]:
    """The trials that have not ended. A trial that was stopped early has ended."""
    stopped = {digest for digest, record in records.items() if record.status == "stopped"}
    return [trial for trial in unfinished(planned, records) if trial.digest not in stopped]


def run_joint_search(options: JointOptions, runner: Runner | None = None) -> None:
    """Propose and train in rounds until the budget is spent, then print the winner and the importances.

    The ledger's trials are reported to Optuna in the order of their proposals, so that the same command continues where
    it ended. Raises InputError for a user's mistake before anything is started.
    """
    with running(options, runner) as runner:
        _run_on(runner, options)


def _run_on(runner: Runner, options: JointOptions) -> None:
    search = _prepare(runner, options)
    base = search.inputs.config
    if options.dry_run:
        look(search.inputs, options, runner)
        found = connect_to_read(options.tracking_uri, options.folder)
        _list(search, found, experiment_of(found, search.inputs))
        return
    check_disk(search.inputs, search.budget, search.at_a_time, stops=True)
    check_suites(base, options.evaluation, options.folder)
    tell(OPENING)
    with closing(connect(options.tracking_uri, options.folder)) as ledger:
        experiment = experiment_of(ledger, search.inputs, create=True)
        log = _open_log(search, ledger, experiment)
        with with_last_words(log.break_off), log.under_way():
            journal = options.folder / "optuna" / f"{NAME}-{base.objective}-{log.run_id[:8]}.journal"
            while search.asked < search.budget:
                _run_round(search, ledger, experiment, log)
                search.proposals.write_journal(journal, f"{NAME}, {base.objective}, {experiment}")
            conclude(search.tried, search.proposals.ranges, options, log, experiment)
            ledger.flush(FLUSH_SECONDS)
        opens_it = f"Optuna's study: {journal} (optuna-dashboard opens it)"
        for line in (opens_it, as_typed(ledger.ui_command()), log.page):
            print_text(line)


def _prepare(runner: Runner, options: JointOptions) -> Search:
    objective, assigned = known_objective(options.objective), parse_assignments(options.set)
    for name in TUNED:
        if name in assigned:
            raise InputError(f"--set {name}=… is what the joint search varies; use mmpo axis for a grid without it")
    if (trials := options.trials) < 0:
        raise InputError(f"--trials must be at least 1, or 0 for as many as the stages have points, got {trials}")
    check_storage(options)
    resources = runner.place(options)
    base = replace(base_config(options), {} if "epochs" in assigned else {"epochs": SEARCH_SETTINGS["epochs"]})
    if base.precision == "auto":
        base = replace(base, {"precision": resources.precision})
    tell(READING)
    inputs = inputs_of(base, options)
    from sweeps.search.proposals import Proposals  # imports numpy

    check_judges([base], with_keys=not options.dry_run)
    # A cluster grows and shrinks, but a search that continues must make rounds of the same size.
    elsewhere = bool(os.environ.get("RAY_ADDRESS"))
    at_a_time = (options.concurrent_trials or _AT_A_TIME_ELSEWHERE) if elsewhere else resources.concurrent
    budget = options.trials or budget_of(objective)
    proposals = Proposals(ranges_of(objective), options.seed, random_first=max(2, budget // 3))
    return Search(options, runner, inputs, proposals, budget, at_a_time)


def _run_round(search: Search, ledger: Ledger, experiment: str, log: StageLog) -> None:
    planned = search.next_round()
    if todo := to_train(planned, find_records(ledger, experiment, planned)):
        how: dict[str, Any] = {"title": f"joint search, {search.asked} of {search.budget}", "axis": "trial"}
        train_planned(todo, search.options, search.runner, ledger, log, **how, goes_on=search.goes_on)
        ledger.flush(FLUSH_SECONDS)
    search.learn(planned, find_records(ledger, experiment, planned))


def _list(search: Search, ledger: Ledger | None, experiment: str) -> None:
    """Print the ledger's trials, the next proposals and the highest cost of the remaining trials."""
    todo: list[Planned] = []
    while search.asked < search.budget and not todo:
        planned = search.next_round()
        records = {} if ledger is None else ledger.look_up_trials(experiment, [one.digest for one in planned])
        todo = to_train(planned, records)
        if not todo:
            search.learn(planned, records)
    console.print(for_terminal(listed(search.tried, list(search.proposals.ranges))))
    for trial in todo:
        values = (f"{words(name)} {shown(name, getattr(trial.config, name))}" for name in search.proposals.ranges)
        print_text(f"  next: {trial.digest}  {', '.join(values)}")
    left = search.budget - len(search.tried)
    resources = search.runner.place(search.options)
    print_text(
        f"{left} to train at most, {len(search.tried)} to reuse; {search.at_a_time} at a time, {resources} each; "
        "nothing was started"
    )
    rest: list[Any] = (todo * left)[:left]
    forecast = forecast_trials(rest, search.options, resources, ledger)
    say_forecast(forecast, rest, search.options)
    print_text("trials that are stopped early cost less")


def _open_log(search: Search, ledger: Ledger, experiment: str) -> StageLog:
    base, options = search.inputs.config, search.options
    fixed = {name: value for name, value in identity(base).items() if name not in TUNED}
    key = digest_of([NAME, fixed, search.budget, search.at_a_time])
    params = {"trials": search.budget, "sampler": "TPE", "early_stopping": "ASHA", "seed": options.seed}
    params |= {"recipe": find_recipe(options.model, options.recipe).name, "settings": options.settings}
    number = counted(search.budget, "trial")
    console.print(f"[bold]Joint search[/]: {base.objective}, {experiment}, {number}", highlight=False)
    named: dict[str, Any] = {"title": f"{NAME} {base.objective}", "note": "Joint search", "search": key_of(base)}
    log = ledger.open_stage(experiment, NAME, base.objective, key, params=params, **named)
    log.log_text(CONFIG, as_yaml(program_of(NAME), in_force(options), leave_out=WHERE))
    log.log_data(search.inputs)
    return log
