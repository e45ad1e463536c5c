"""A study: a table whose cells are trials with several seeds, like the MC-PO paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.markup import escape

from mmpo_train.config import FINGERPRINTS, NEEDS_UNRELATED, TrialConfig, digest_of, parse_assignments, replace, to_dict
from mmpo_train.data.sources import EMBEDDED
from mmpo_train.errors import InputError
from mmpo_train.metric_names import VALIDATION
from mmpo_train.options import NotTaken, base_config, in_force
from mmpo_train.recipes import objective_settings
from mmpo_train.tables import for_terminal
from mmpo_train.terminal import console, print_text, tell
from mmpo_train.typed.options_file import CONFIG, WHERE, as_yaml
from mmpo_train.typed.programs import as_typed, program_of
from sweeps.cluster.head import with_last_words
from sweeps.cluster.nodes import counted
from sweeps.cluster.placement import TrialResources
from sweeps.cost.arithmetic import total
from sweeps.cost.of_trials import forecast_trials
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import FLUSH_SECONDS, connect, connect_to_read
from sweeps.ledger.records import TrialRecord
from sweeps.plan.options import SweepOptions
from sweeps.plan.trials import Planned
from sweeps.ranking.study_sheets import study_sheets
from sweeps.search.checks import check_disk, check_judges, check_storage, check_suites
from sweeps.search.look import OPENING, READING, inputs_of, look
from sweeps.search.sharing import discard_shared, plan_trainings, score_shared
from sweeps.search.study_tables import Entry, Study, tabulate, with_starting_model, write_tables
from sweeps.search.train import clones_left, find_records, say_forecast, say_held, show_clones, train_planned
from sweeps.trials.runner import Runner, running

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs

# Fields that act through the data: trials that agree on them share token tables and reference store.
_DATA_FIELDS = (
    "dataset", "negatives_from_rank", "worst_negatives", "pair_every_negative", "noise_candidate", "holdout_seed",
    "truncation", "completion_rendering",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StudyOptions(SweepOptions):
    """The options of every study."""

    of_recipe: ClassVar[bool] = False

    objective: Annotated[str, *NotTaken] = "mmpo"
    choose_by: Annotated[str, *NotTaken] = "reward_accuracy"
    seeds: int = 3
    """Train each cell of the table N times, with the seeds --seed, --seed+1, and so on."""
    learning_rates: tuple[float, ...] = ()
    """Train each cell with each of these; the table shows the best. Default: one that suits the model."""
    judge: str = ""
    """Judge that compares answers with those of the starting model: openai:MODEL or anthropic:MODEL, each with @URL for
    another endpoint. Default: tiny's own judge on tiny's data, none on other data."""


def run_study(study: Study, options: StudyOptions, script: str) -> None:
    """Train the trials that the ledger lacks, then print the tables and write them as Markdown and CSV.

    `script` is the command's file, for the options that the study's run keeps.

    Raises InputError for a user's mistake before anything is started.
    """
    with running(options) as runner:
        _run_on(runner, study, options, script)


def _run_on(runner: Runner, study: Study, options: StudyOptions, script: str) -> None:
    check_storage(options)
    resources = runner.place(options)
    tell(READING)
    entries = plan_study(study, options, resources.precision)
    planned = [entry.planned for entry in entries]
    every = list({id(trial.inputs): trial.inputs for trial in planned}.values())
    judge = options.judge or ("tiny" if set(planned[0].config.dataset) <= set(EMBEDDED) else "")
    check_judges([trial.config for trial in planned], judge, with_keys=not options.dry_run)
    if options.dry_run:
        for inputs in every:
            look(inputs, options, runner)
        _list(study, planned, options, resources, judge)
        return
    check_suites(planned[0].config, options.evaluation, options.folder)
    tell(OPENING)
    with closing(connect(options.tracking_uri, options.folder)) as ledger:
        experiment = experiment_of(ledger, planned[0].inputs, create=True)
        _say_what(study, planned, experiment)
        known = find_records(ledger, experiment, planned)
        plan = plan_trainings(planned, known, ledger, experiment, train_all=options.train_all)
        todo = plan.train
        check_disk(planned[0].inputs, len(todo), resources.concurrent)
        key = digest_of([study.name, *(trial.digest for trial in planned)])
        params = {"rows": ", ".join(study.rows), "columns": ", ".join(study.columns), "seeds": str(options.seeds)}
        named: dict[str, Any] = {"title": study.name, "params": params, "note": study.title}
        log = ledger.open_stage(experiment, study.name, "", key, **named)
        log.log_text(CONFIG, as_yaml(program_of(script), in_force(options), leave_out=WHERE))
        for inputs in every:
            log.log_data(inputs)
        with with_last_words(log.break_off), log.under_way():
            discard_shared(todo, known, ledger)
            left = clones_left(planned, ledger, experiment, log)
            if todo or left:
                done = len(planned) - len(todo) - len(plan.trainer_of) - len(plan.held)
                print_text(f"{done} finished already, {len(todo)} to train")
                about: dict[str, Any] = {"title": study.title, "axis": "trial", "judge": judge}
                train_planned([*todo, *left], options, runner, ledger, log, **about, check=plan.check)
                ledger.flush(FLUSH_SECONDS)
            score_shared(plan, ledger, experiment, log)
            ledger.flush(FLUSH_SECONDS)
            records = find_records(ledger, experiment, planned)
            say_held(planned, records)
            show_clones(planned, ledger, experiment, log)
            tables = tabulate(study, entries, records)
            if not tables:
                raise InputError(f"no trial of the study has a result: {_reasons(records)}")
            if study.from_starting_model:
                started = _starting_model(entries)
                tables = [with_starting_model(table, started) for table in tables]
            markdown, as_csv = write_tables(study, tables, options.folder / "reports")
            for table in study_sheets(study.name, study.title, study.rows, study.columns, tables):
                console.print(for_terminal(table))
            if failed := sum(record.status in ("failed", "diverged") for record in records.values()):
                print_text(f"{counted(failed, 'trial')} without a result: {_reasons(records)}")
            log.describe(markdown.read_text())
            log.log_file(markdown, "tables")
            log.log_file(as_csv, "tables")
            log.finish(None, {})
        for line in (f"tables: {markdown} and {as_csv.name}", as_typed(ledger.ui_command()), log.page):
            print_text(line)


def _say_what(study: Study, planned: Sequence[Planned], experiment: str) -> None:
    console.print(f"[bold]{escape(study.title)}[/]: {experiment}, {counted(len(planned), 'trial')}", highlight=False)


def _list(
    study: Study, planned: Sequence[Planned], options: StudyOptions, resources: TrialResources, judge: str
) -> None:
    """Print the trials that would be trained, those that would be reused, and the expected cost."""
    ledger = connect_to_read(options.tracking_uri, options.folder)
    experiment = experiment_of(ledger, planned[0].inputs)
    _say_what(study, planned, experiment)
    records = {} if ledger is None else ledger.look_up_trials(experiment, [one.digest for one in planned])
    plan = plan_trainings(planned, records, ledger, experiment, train_all=options.train_all)
    todo, trainers = plan.train, plan.trainer_of
    wanted = {trial.digest for trial in todo} | trainers.keys()
    for trial in planned:
        record = records.get(trial.digest)
        known = f"  {record.status} in {record.stage}" if record is not None and trial.digest not in wanted else ""
        known += f"  scored: same model as trial {trainers[trial.digest]}" if trial.digest in trainers else ""
        print_text(f"  {trial.digest}  {trial.label}{known}")
    print_text(
        f"{len(todo)} to train, {f'{len(trainers)} to score, ' if trainers else ''}"
        f"{len({one.digest for one in planned} - wanted)} to reuse; "
        f"{resources.concurrent} at a time, {resources} each; nothing was started"
    )
    by_data: dict[int, list[Planned]] = {}
    for trial in todo:
        by_data.setdefault(id(trial.inputs), []).append(trial)
    forecasts = [forecast_trials(some, options, resources, ledger, judge=judge) for some in by_data.values()]
    if forecasts:
        say_forecast(total(forecasts), todo, options, judge)
    else:
        print_text("nothing to train")


def plan_study(study: Study, options: StudyOptions, precision: str) -> list[Entry]:
    """Every trial of the study, in the table's order. Raises InputError for trials that cannot be trained."""
    assigned = parse_assignments(options.set)
    varied = sorted({name for cell in study.cells.values() for name in cell} & set(assigned))
    if varied:
        raise InputError(f"--set {varied[0]}=… is what the study {study.name} varies; leave it out")

    if options.seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {options.seeds}")
    rates = options.learning_rates or study.learning_rates(options.model)
    inputs: dict[str, Inputs] = {}
    entries = []
    for (row, column), cell in study.cells.items():
        own = dict(study.settings) | objective_settings(cell["objective"])
        given = {*assigned, *(["dataset"] if options.dataset else [])}
        settings = {name: value for name, value in own.items() if name not in given} | dict(cell)
        base = replace(base_config(options), settings)
        base = replace(base, {"precision": precision}) if base.precision == "auto" else base
        for rate in rates:
            for seed in range(options.seed, options.seed + options.seeds):
                trial = replace(base, {"learning_rate": rate, "seed": seed})
                planned = _planned(trial, f"{row}, {column}", options, inputs, len(rates))
                entries.append(Entry(planned, row, column, rate))
    return entries


def _planned(trial: TrialConfig, place: str, options: StudyOptions, inputs: dict[str, Inputs], rates: int) -> Planned:
    key = digest_of([*(getattr(trial, name) for name in _DATA_FIELDS), trial.objective in NEEDS_UNRELATED])
    if key not in inputs:
        inputs[key] = inputs_of(trial, options)
    found = inputs[key].config
    named = {name: getattr(found, name) for name in FINGERPRINTS}
    label = place + (f", lr {trial.learning_rate:g}" if rates > 1 else "") + f", seed {trial.seed}"
    return Planned(replace(trial, named), inputs[key], label, label)


def _reasons(records: Mapping[str, TrialRecord]) -> str:
    return "; ".join(sorted({record.reason for record in records.values() if record.reason})) or "nothing was trained"


def _starting_model(entries: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """Row -> metrics of the starting model by the row's objective, from the reference store that training used."""
    from eval_workers.reward_accuracy import RewardAccuracy
    from mmpo_train.model.reference import in_process
    from mmpo_train.prepare import materialise

    evaluate = RewardAccuracy()
    rows: dict[str, dict[str, float]] = {}
    for entry in {entry.row: entry for entry in entries}.values():
        places, _ = materialise(entry.planned.inputs, in_process, lambda what, share: None)
        scores = evaluate.starting_model(to_dict(entry.planned.config), str(places.tokens), str(places.reference))
        rows[entry.row] = {f"{VALIDATION}{name}": value for name, value in scores.items()}
    return rows
