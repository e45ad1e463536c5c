"""One stage of the grid search: the same trial at each value of one axis, and the choice of the best value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mmpo_train.config import TrialConfig, digest_of, replace
from mmpo_train.errors import InputError
from mmpo_train.options import in_force
from mmpo_train.recipes import find_recipe
from mmpo_train.terminal import console, print_text, run_program, tell
from mmpo_train.typed.options_file import CONFIG, WHERE, as_yaml
from mmpo_train.typed.programs import as_typed, program_of
from sweeps.cluster.head import with_last_words
from sweeps.cluster.nodes import counted
from sweeps.cluster.placement import TrialResources
from sweeps.cost.of_trials import forecast_trials
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import FLUSH_SECONDS, Ledger, connect, connect_to_read
from sweeps.ledger.records import GRID, TrialRecord
from sweeps.ledger.runs import BY_PERSON, WINNER
from sweeps.ledger.stage_log import StageLog
from sweeps.ledger.tags import Baseline
from sweeps.plan.commands import command, print_next, same_command
from sweeps.plan.labels import option, words
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import DECIDED_IN, SEARCH, TUNED, SearchStage, next_script
from sweeps.plan.searches import key_of
from sweeps.plan.stages import GridPoint, Stage, known_objective, stage_config
from sweeps.plan.trials import Planned
from sweeps.ranking.measures import measure_of
from sweeps.ranking.winners import Ranking
from sweeps.search.checks import check_disk, check_judges, check_storage, check_suites, list_trials
from sweeps.search.choices import Choice, Question, Undecided, choose, stage_tags
from sweeps.search.conclusion import conclude
from sweeps.search.look import OPENING, READING, inputs_of, look
from sweeps.search.scores import starting_models
from sweeps.search.sharing import discard_shared, plan_trainings, score_shared
from sweeps.search.train import clones_left, find_records, say_cost, say_forecast, say_held, show_clones, train_planned
from sweeps.trials.runner import Runner, running

OptionsType = TypeVar("OptionsType", bound=SweepOptions)


def run_script(
    place: SearchStage,
    options_of: type[OptionsType],
    stage_of: Callable[[OptionsType], Stage],
    arguments: list[str] | None,
    runner: Runner | None,
) -> None:
    """The program of a stage of the search: parse the command line, and run the stage if the objective has it."""

    def program(options: OptionsType) -> None:
        if not place.for_others or known_objective(options.objective) in place.objectives:
            run_stage(stage_of(options), options, runner)
            return
        print_text(place.for_others.format(options.objective))
        if script := next_script(place.name, options.objective):
            print_text(f"next: {as_typed(command(script, options))}")

    run_program(options_of, program, program_of(place.name), arguments)


@dataclass(frozen=True)
class StageOutcome:
    """What a stage found."""

    points: list[GridPoint]
    todo: list[Planned]
    """The trials that had to be trained; in a dry run those that would have to be."""
    records: Mapping[str, TrialRecord]
    """Digest -> the trial's record."""
    ranking: Ranking | None = None
    """None in a dry run."""


def run_stage(stage: Stage, options: SweepOptions, runner: Runner | None = None) -> StageOutcome:
    """Train what the ledger does not have yet, rank all, record the winner and say what comes next.

    Without a `runner` it is the one that the options name. Raises InputError before anything is started where the
    user's input is at fault, and where no trial has a result.
    """
    with running(options, runner) as runner:
        return _run_on(runner, stage, options)


def _run_on(runner: Runner, stage: Stage, options: SweepOptions) -> StageOutcome:
    check_storage(options)
    resources = runner.place(options)
    base = stage_config(stage, options, resources.precision)
    tell(READING)
    inputs = inputs_of(base, options)
    stage.points(inputs.config, inputs, options.seeds)
    recipe, note = find_recipe(options.model, options.recipe).name, f", {resources.note}" if resources.note else ""
    print_text(f"recipe {recipe}, settings {options.settings}{note}", "dim")
    check_judges([base], with_keys=not options.dry_run)
    measure_of(options.choose_by, base.evaluations)
    if options.dry_run:
        look(inputs, options, runner)
    else:
        check_disk(inputs, trials=0)  # the ledger itself needs room
        check_suites(base, options.evaluation, options.folder)
    tell(OPENING)
    ledger = connect_to_read(options.tracking_uri, options.folder)
    try:
        experiment = experiment_of(ledger, inputs)
        # What is not decided yet ends the stage before a ledger is made.
        config, choices = with_choices(stage, options, inputs.config, ledger, experiment)
        points = stage.points(config, inputs, options.seeds)
        if options.dry_run:
            return _preview(stage, options, points, choices, ledger, experiment, resources)
        ledger = ledger or connect(options.tracking_uri, options.folder)
        experiment = experiment_of(ledger, inputs, create=True)
        return _run(runner, stage, options, points, choices, ledger, experiment, resources)
    finally:
        if ledger is not None:
            ledger.close()


def _preview(
    stage: Stage,
    options: SweepOptions,
    points: list[GridPoint],
    choices: list[Choice],
    ledger: Ledger | None,
    experiment: str,
    resources: TrialResources,
) -> StageOutcome:
    """List the trials and what they will cost."""
    still_open = [name for name in stage.chosen if name not in {choice.field for choice in choices}]
    trials = [one for point in points for one in point.trials]
    known = None if still_open else ledger
    records = {} if known is None else known.look_up_trials(experiment, [one.digest for one in trials])
    plan = plan_trainings(trials, records, known, experiment, train_all=options.train_all)
    list_trials(stage, points, records, plan, resources, still_open)
    say_forecast(forecast_trials(plan.train, options, resources, ledger), plan.train, options)
    return StageOutcome(points, plan.train, records)


def _run(
    runner: Runner,
    stage: Stage,
    options: SweepOptions,
    points: list[GridPoint],
    choices: list[Choice],
    ledger: Ledger,
    experiment: str,
    resources: TrialResources,
) -> StageOutcome:
    trials = [trial for point in points for trial in point.trials]
    inputs, objective = trials[0].inputs, trials[0].config.objective
    records = find_records(ledger, experiment, trials)
    plan = plan_trainings(trials, records, ledger, experiment, train_all=options.train_all)
    todo, scored = plan.train, len(plan.trainer_of)
    check_disk(inputs, len(todo), resources.concurrent)
    done = len(trials) - len(todo) - scored - len(plan.held)
    kept = f", {done} of them finished already" if done else ""
    kept += f", {scored} with the model of another: {len(todo)} to train" if scored else ""
    kept += f", {len(plan.held)} stopped by a person" if plan.held else ""
    kept += "" if todo or scored else ": nothing to train"
    number = counted(len(trials), "trial")
    console.print(f"[bold]{stage.title}[/]: {objective}, {experiment}, {number}{kept}", highlight=False)
    log = _open_log(stage, options, points, choices, ledger, experiment)
    starts: dict[str, dict[str, float]] = {}
    with with_last_words(log.break_off), log.under_way():
        discard_shared(todo, records, ledger)
        left = clones_left(trials, ledger, experiment, log)
        if todo or options.show_examples:
            look(inputs, options, runner)
        if todo:
            forecast = forecast_trials(todo, options, resources, ledger)
            say_forecast(forecast, todo, options)
        if both := [*todo, *left]:
            check = plan.check
            found = train_planned(both, options, runner, ledger, log, title=objective, axis=stage.axis, check=check)
            starts = {trial.digest: found[trial.digest] for trial in todo}
            ledger.flush(FLUSH_SECONDS)
        tell("ranking the trials")
        score_shared(plan, ledger, experiment, log)
        starts |= starting_models(trials)
        _tag_baselines(log, starts)
        ledger.flush(FLUSH_SECONDS)
        known = find_records(ledger, experiment, trials)
        if todo:
            say_cost(forecast, known, [trial.digest for trial in todo], log, resources.accelerators)
        script = next_script(stage.name, objective)
        following = command(script, options) if script else ""
        ranking = conclude(stage, experiment, points, known, log, options, choices, following, starts)
        say_held(trials, known)
        show_clones(trials, ledger, experiment, log)
        ledger.flush(FLUSH_SECONDS)
    if stage.tunes:
        _say_persons_choice(ledger, experiment, log)
    print_next(following if ranking.results else "", ledger.ui_command(), log.page)
    if not ranking.results:
        reasons = sorted({record.reason for record in known.values() if record.reason})
        raise InputError(f"{ranking.reason} Reasons: {'; '.join(reasons)}")
    return StageOutcome(points, todo, known, ranking)


def _say_persons_choice(ledger: Ledger, experiment: str, log: StageLog) -> None:
    stages = ledger.find_stages(experiment, log.tags["stage.name"], log.tags["stage.objective"])
    moved = {ledger.persons_version(one) for one in stages if one.run_id == log.run_id} - {""}
    for child in ledger.find_children(experiment, log.run_id):
        if child.tags.get(WINNER) == BY_PERSON or moved & {child.run_id, child.tags.get("taken_from")}:
            print_text(f"run {child.name} was chosen by a person: later stages take that one")


def with_choices(
    stage: Stage, options: SweepOptions, base: TrialConfig, ledger: Ledger | None, experiment: str
) -> tuple[TrialConfig, list[Choice]]:
    """The base config with what was chosen before, and these choices, each of them printed.

    In a dry run what is not decided yet is said and left out; otherwise that raises Undecided.
    """
    choices: list[Choice] = []
    for name in TUNED:
        given = getattr(options, name, None)
        if name not in stage.chosen:
            if given is not None:
                raise InputError(f"{option(name)} has no meaning here: {base.objective} has no {words(name)}")
            continue
        try:
            if given is not None:
                value = getattr(replace(base, {name: given}), name)
                choices.append(Choice.of(name, value, f"given with {option(name)}"))
            else:
                decided = {choice.field: choice.value for choice in choices}
                earlier = command(DECIDED_IN[name], options, () if stage.tunes else ("epochs",))
                epochs = next((one.epochs for one in choices if one.epochs is not None), None)
                # All values come from one search: that of the first.
                asked = base if epochs is None else replace(base, {"epochs": epochs})
                anywhere = not stage.tunes and epochs is None
                question = Question(name, asked, decided, anywhere, stage.search_epochs, earlier)
                choices.append(choose(ledger, experiment, question))
        except Undecided as why:
            if not options.dry_run:
                raise
            print_text(f"{words(name)}: not decided yet; {why}")
        else:
            print_text(choices[-1].said)
    return replace(base, {choice.field: choice.value for choice in choices}), choices


def _open_log(
    stage: Stage, options: SweepOptions, points: list[GridPoint], choices: list[Choice], ledger: Ledger, experiment: str
) -> StageLog:
    first = points[0].trials[0].config
    digests = [trial.digest for point in points for trial in point.trials]
    epochs = next((one.epochs for one in choices if one.epochs is not None), None)
    fixed = {choice.field: choice.value for choice in choices}
    log = ledger.open_stage(
        experiment,
        stage.name,
        first.objective,
        digest_of([stage.name, *digests]),
        title=f"{stage.name} {first.objective}",
        params={"axis": stage.axis, "values": ", ".join(point.label for point in points)}
        | {"recipe": find_recipe(options.model, options.recipe).name, "settings": options.settings}
        | fixed,
        note=stage.title,
        search=key_of(first, None if stage.tunes else epochs or stage.search_epochs),
    )
    log.tag({f"chosen.{choice.field}": choice.said for choice in choices})
    program = program_of(stage.name if stage.name in SEARCH else "axis")
    log.log_text(CONFIG, as_yaml(program, in_force(options), fixed, WHERE))
    if stage.tunes:
        log.tag(stage_tags(first, stage.axis, same_command(stage.name, options)))
    log.log_json(GRID, [{"label": one.label, "digests": [trial.digest for trial in one.trials]} for one in points])
    log.log_data(points[0].trials[0].inputs)
    return log


def _tag_baselines(log: StageLog, starts: Mapping[str, Mapping[str, float]]) -> None:
    """What the starting model scores, by the score of each point: digest -> metrics. Nothing where it is not known."""
    if starts:
        own = {round(start["reward_accuracy"], 6) for start in starts.values()}
        policy = next(iter(starts.values()))["policy_accuracy"]
        log.tag(Baseline(round(policy, 6), tuple(dict.fromkeys((min(own), max(own))))).tags())
