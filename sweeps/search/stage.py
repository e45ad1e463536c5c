"""One stage of the grid search: the same trial at each value of one axis, the best of them chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mmpo_train.config import TrialConfig, digest_of, replace
from mmpo_train.errors import InputError
from mmpo_train.recipes import find_recipe
from mmpo_train.terminal import console, preparing, print_examples, run_program
from sweeps.cluster.placement import wish_of
from sweeps.cost.arithmetic import Forecast, compared
from sweeps.cost.of_trials import forecast_trials, hours_of
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import FLUSH_SECONDS
from sweeps.ledger.records import GRID
from sweeps.ledger.runs import BY_PERSON, WINNER
from sweeps.ledger.tags import Baseline, baseline_of
from sweeps.plan.commands import as_typed, command, print_next, same_command
from sweeps.plan.labels import option, words
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import DECIDED_IN, TUNED, SearchStage, next_script
from sweeps.plan.searches import key_of
from sweeps.plan.stages import GridPoint, Stage, known_objective, stage_config
from sweeps.plan.trials import Planned
from sweeps.search.checks import check_disk, check_judges, check_storage, check_suites, list_trials
from sweeps.search.choices import Choice, Question, Undecided, choose, stage_tags
from sweeps.search.conclusion import conclude
from sweeps.search.train import find_records, train_planned, unfinished
from sweeps.trials.runner import Runner, running

if TYPE_CHECKING:
    from sweeps.cluster.placement import TrialResources
    from sweeps.ledger.ledger import Ledger
    from sweeps.ledger.records import TrialRecord
    from sweeps.ledger.stage_log import StageLog

OptionsType = TypeVar("OptionsType", bound=SweepOptions)


def run_script(
    place: SearchStage,
    options_of: type[OptionsType],
    stage_of: Callable[[OptionsType], Stage],
    arguments: list[str] | None,
    runner: Runner | None,
) -> None:
    """The program of a stage of the search: parse the command line and run, where the objective has the stage."""

    def program(options: OptionsType) -> None:
        if not place.for_others or known_objective(options.objective) in place.objectives:
            run_stage(stage_of(options), options, runner)
            return
        console.print(place.for_others.format(options.objective), highlight=False)
        if script := next_script(place.name, options.objective):
            following = as_typed(command(script, options))
            console.print(f"next: {following}", highlight=False, soft_wrap=True, markup=False)

    run_program(options_of, program, f"python sweeps/{place.name}.py", arguments)


def run_stage(stage: Stage, options: SweepOptions, runner: Runner | None = None) -> list[Planned]:
    """Train what the ledger does not have yet, rank all, record the winner and say what comes next.

    Without a `runner` it is the one that the options name. Returns the trials that had to be trained; in a dry run
    those that would have to be. Raises InputError before anything is started where the user's input is at fault.
    """
    with running(options, runner) as runner:
        return _run_on(runner, stage, options)


def _run_on(runner: Runner, stage: Stage, options: SweepOptions) -> list[Planned]:
    from mmpo_train.prepare import identify
    from sweeps.ledger.ledger import connect, connect_to_read

    check_storage(options)
    resources = runner.place(wish_of(options), dry_run=options.dry_run)
    base = stage_config(stage, options, resources.precision)
    inputs = identify(base, options.folder, strict=options.strict, drop_bad_rows=options.drop_bad_rows)
    stage.points(inputs.config, inputs, options.seeds)
    taken = {"recipe": find_recipe(options.model, options.recipe).name, "settings": options.settings}
    said = ", ".join([*(f"{name} {value}" for name, value in taken.items()), *filter(None, [resources.note])])
    console.print(said, style="dim", highlight=False, soft_wrap=True)
    check_judges([base], with_keys=not options.dry_run)
    if options.dry_run:
        found = connect_to_read(options.tracking_uri or None, options.folder)
        experiment = experiment_of(found, inputs)
        config, choices = with_choices(stage, options, inputs.config, found, experiment)
        still_open = [name for name in stage.chosen if name not in {choice.field for choice in choices}]
        points = stage.points(config, inputs, options.seeds)
        records = (
            {}
            if found is None or still_open
            else found.look_up_trials(experiment, [one.digest for point in points for one in point.trials])
        )
        todo = list_trials(stage, points, records, resources, still_open)
        console.print(str(forecast_trials(todo, options, resources, found)), highlight=False, soft_wrap=True)
        return todo
    check_disk(inputs, trials=0)  # the ledger itself needs room
    check_suites(base, options.evaluation, options.folder)
    ledger = connect(options.tracking_uri or None, options.folder)
    try:
        experiment = experiment_of(ledger, inputs, create=True)
        config, choices = with_choices(stage, options, inputs.config, ledger, experiment)
        points = stage.points(config, inputs, options.seeds)
        return _run(runner, stage, options, points, choices, ledger, experiment, resources)
    finally:
        ledger.close()


def _run(
    runner: Runner,
    stage: Stage,
    options: SweepOptions,
    points: list[GridPoint],
    choices: list[Choice],
    ledger: Ledger,
    experiment: str,
    resources: TrialResources,
) -> list[Planned]:
    trials = [trial for point in points for trial in point.trials]
    inputs, objective = trials[0].inputs, trials[0].config.objective
    todo = unfinished(trials, find_records(ledger, experiment, trials))
    check_disk(inputs, len(todo), resources.concurrent)
    done = len(trials) - len(todo)
    kept = f", {done} of them finished already{'' if todo else ': nothing to train'}" if done else ""
    console.print(f"[bold]{stage.title}[/]: {objective}, {experiment}, {len(trials)} trials{kept}", highlight=False)
    log = _open_log(stage, options, points, choices, ledger, experiment)
    try:
        if todo:
            forecast = forecast_trials(todo, options, resources, ledger)
            console.print(str(forecast), highlight=False, soft_wrap=True)
            baselines = train_planned(todo, options, runner, ledger, log, title=objective, axis=stage.axis)
            _tag_baselines(stage, log, list(baselines.values()))
        elif options.show_examples:
            from mmpo_train.prepare import build_starting_model

            with preparing() as say:
                build_starting_model(inputs, say)
            print_examples(inputs, options.show_examples)
        ledger.flush(FLUSH_SECONDS)
        known = find_records(ledger, experiment, trials)
        if todo:
            _compare(forecast, known, todo, log, resources.accelerators)
        script = next_script(stage.name, objective)
        following = command(script, options) if script else ""
        ranking = conclude(stage, experiment, points, known, log, options.folder, choices, following)
        ledger.flush(FLUSH_SECONDS)
    except BaseException as error:  # Ctrl-C too: a run that says RUNNING for ever would be a lie
        log.fail("interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}")
        raise
    if stage.tunes:
        _say_persons_choice(ledger, experiment, log)
    print_next(following if ranking.winner is not None else "", ledger.ui_command(), log.page)
    if ranking.winner is None:
        reasons = sorted({record.reason for record in known.values() if record.reason})
        raise InputError(f"{ranking.reason} Reasons: {'; '.join(reasons)}")
    return todo


def _compare(
    forecast: Forecast, records: dict[str, TrialRecord], todo: list[Planned], log: StageLog, accelerators: float
) -> None:
    """Say, and tag the stage with, what was foreseen and what it cost."""
    hours = hours_of(records, [trial.digest for trial in todo], accelerators)
    if hours is None:
        console.print("cost: not known, as not all of these trials finished", highlight=False)
        return
    console.print(compared(forecast, hours), highlight=False, soft_wrap=True)
    log.tag(
        {"forecast.hours": f"{forecast.hours:.4g}", "forecast.source": forecast.source, "cost.hours": f"{hours:.4g}"}
    )


def _say_persons_choice(ledger: Ledger, experiment: str, log: StageLog) -> None:
    for child in ledger.find_children(experiment, log.run_id):
        if child.tags.get(WINNER) == BY_PERSON:
            console.print(f"run {child.name} was chosen by a person: later stages take that one", highlight=False)


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
            console.print(f"{words(name)}: not decided yet; {why}", markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(choices[-1].said, markup=False, highlight=False, soft_wrap=True)
    return replace(base, {choice.field: choice.value for choice in choices}), choices


def _open_log(
    stage: Stage,
    options: SweepOptions,
    points: list[GridPoint],
    choices: list[Choice],
    ledger: Ledger,
    experiment: str,
) -> StageLog:
    first = points[0].trials[0].config
    digests = [trial.digest for point in points for trial in point.trials]
    epochs = next((one.epochs for one in choices if one.epochs is not None), None)
    log = ledger.open_stage(
        experiment,
        stage.name,
        first.objective,
        digest_of([stage.name, *digests]),
        title=f"{stage.name} {first.objective}",
        params={"axis": stage.axis, "values": ", ".join(point.label for point in points)}
        | {"recipe": find_recipe(options.model, options.recipe).name, "settings": options.settings}
        | {choice.field: choice.value for choice in choices},
        note=stage.title,
        search=key_of(first, None if stage.tunes else epochs or stage.search_epochs),
    )
    log.tag({f"chosen.{choice.field}": choice.said for choice in choices})
    if stage.tunes:
        log.tag(stage_tags(first, stage.axis, same_command(stage.name, options)))
    listed: list[dict[str, Any]] = [
        {"label": point.label, "digests": [trial.digest for trial in point.trials]} for point in points
    ]
    log.log_json(GRID, listed)
    return log


def _tag_baselines(stage: Stage, log: StageLog, scores: Sequence[dict[str, float]]) -> None:
    """What the starting model scores. By the objective's own score that is one number only over learning rates: other
    axes may change the score, so that it is a range, and unknown where a single trial was trained."""
    before = baseline_of(log.tags)
    own = {round(score["reward_accuracy"], 6) for score in scores} | set(before.reward_accuracy if before else ())
    known = stage.axis == "learning_rate" or len(scores) > 1
    reward = tuple(dict.fromkeys((min(own), max(own)))) if known else ()
    log.tag(Baseline(round(scores[0]["policy_accuracy"], 6), reward).tags())
