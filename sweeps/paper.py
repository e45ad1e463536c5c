"""All of Appendix B.1 for some models and objectives: three stages, final runs, ablations, and the report.

mmpo paper --model tiny --objective mmpo dpo simpo
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mmpo_train.config import FINGERPRINTS, parse_assignments, replace
from mmpo_train.errors import InputError
from mmpo_train.tables import Table, for_terminal
from mmpo_train.terminal import console, print_text, run_program, tell
from sweeps.ablations import AblationOptions, ablations
from sweeps.cluster.placement import TrialResources
from sweeps.cost.arithmetic import Forecast, duration, total
from sweeps.cost.of_trials import forecast_trials
from sweeps.final_runs import FinalOptions, final_runs
from sweeps.grids import QUICK_EPOCHS, SEARCH_EPOCHS
from sweeps.ledger.experiments import experiment_of
from sweeps.ledger.ledger import connect_to_read
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import TUNED, search_of
from sweeps.plan.searches import key_of
from sweeps.plan.stages import Stage, known_objective, stage_config
from sweeps.plan.trials import Planned
from sweeps.ranking.measures import measure_of
from sweeps.search.checks import check_judges, check_storage, check_suites
from sweeps.search.look import READING, inputs_of
from sweeps.search.sharing import plan_trainings
from sweeps.search.stage import run_stage
from sweeps.search.train import say_forecast
from sweeps.stage1_lr import Stage1Options, stage1
from sweeps.stage2_beta import Stage2Options, stage2
from sweeps.stage3_margin import Stage3Options, stage3
from sweeps.trials.runner import Runner, running

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs

TINY_EVALUATIONS = "evaluations=reward,harness,alpaca"
"""Of final runs and ablations on `tiny`, for the report's tables 1 and 2 and its figures, where --set names none."""
SCRIPTS: dict[str, tuple[type[SweepOptions], Callable[[Any], Stage]]] = {
    "stage1_lr": (Stage1Options, stage1),
    "stage2_beta": (Stage2Options, stage2),
    "stage3_margin": (Stage3Options, stage3),
    "final_runs": (FinalOptions, final_runs),
    "ablations": (AblationOptions, ablations),
}
"""Stage of the search -> its options, and what makes it of them."""


@dataclass(frozen=True, kw_only=True)
class PaperOptions(SweepOptions):
    """Run the whole search for every model and objective; rerun it to continue."""

    of_recipe: ClassVar[bool] = False

    objective: tuple[str, ...] = ("mmpo", "dpo", "simpo")  # type: ignore[assignment]
    """The objectives to tune, one after the other."""
    model: tuple[str, ...] = ("tiny",)  # type: ignore[assignment]
    """The starting models, one after the other. Each trains on the data of its recipe, or on --dataset."""
    quick: bool = False
    """Use the quick grids of sweeps/grids.py: two values per stage, one epoch, one final run of two epochs."""


@dataclass(frozen=True)
class Step:
    """One stage of one objective on one model, ready to run."""

    stage: Stage
    options: SweepOptions

    @property
    def search(self) -> str:
        """Whose stage it is."""
        return f"{self.options.model}, {self.options.objective}"

    def __str__(self) -> str:
        return f"{self.search}, {self.stage.name}"


def steps_of(options: PaperOptions, model: str, objective: str) -> list[Step]:
    """The stages of an objective in order. Raises InputError for an unknown one, or fields that stages decide."""
    known_objective(objective)
    assigned = parse_assignments(options.set)
    for name in ("epochs", *TUNED):
        if name in assigned:
            raise InputError(f"--set {name}=… is what the search decides; use the stages' own commands to change it")
    own = {one.name: getattr(options, one.name) for one in dataclasses.fields(SweepOptions)}
    own |= {"model": model, "objective": objective}
    # Other evaluations than reward accuracy are for what the search ends with, unless they choose.
    search = options.set
    if options.choose_by.partition("/")[0] in ("reward_accuracy", "policy_accuracy", "logratio_accuracy", "validation"):
        search = tuple(one for one in options.set if not one.strip().startswith("evaluations"))
    # What comes with `tiny` judges it in seconds; other models' judges take data and keys, and are asked for by name.
    judged = (TINY_EVALUATIONS,) if model == "tiny" and "evaluations" not in assigned else ()
    steps = []
    for stage in search_of(objective):
        given = own | {"set": (*options.set, *judged) if stage.is_last else search}
        if options.quick:
            given["set"] = (*given["set"], f"epochs={stage.quick_epochs}")
            given |= {stage.option: stage.quick[stage.axis(objective)]} if stage.option else {}
        options_of, make = SCRIPTS[stage.name]
        one = options_of(**given)
        # Final runs and ablations take what this search chose, even if a longer one is in the ledger.
        stage_of = dataclasses.replace(make(one), search_epochs=QUICK_EPOCHS if options.quick else SEARCH_EPOCHS)
        steps.append(Step(stage_of, one))
    return steps


def check(searches: list[list[Step]], runner: Runner) -> tuple[list[Inputs], tuple[str, ...]]:
    """Refuse, before anything is started, what any stage would refuse later. Returns each model with its data, and the
    searches' keys."""
    known: dict[str, Inputs] = {}
    keys: dict[str, None] = {}
    places: dict[str, TrialResources] = {}
    for step in (step for steps in searches for step in steps):
        options = step.options
        if options.model not in places:
            places[options.model] = runner.place(options)
        base = stage_config(step.stage, options, places[options.model].precision)
        if options.model not in known:
            tell(READING)
            known[options.model] = inputs_of(base, options)
        step.stage.points(base, known[options.model], options.seeds)
        check_judges([base], with_keys=not options.dry_run)
        measure_of(options.choose_by, base.evaluations)
        if not options.dry_run:
            check_suites(base, options.evaluation, options.folder)
        if step.stage.tunes:
            named = {name: getattr(known[options.model].config, name) for name in FINGERPRINTS}
            keys[key_of(replace(base, named))] = None
    return list(known.values()), tuple(keys)


def run_paper(options: PaperOptions, runner: Runner | None = None) -> bool:
    """Whether every objective got to its end. Raises InputError before anything is started."""
    with running(options, runner) as runner:
        return _run_on(runner, options)


def _run_on(runner: Runner, options: PaperOptions) -> bool:
    for name in ("model", "objective"):
        given = getattr(options, name)
        if not given or len(set(given)) < len(given):
            raise InputError(f"--{name} {'names one twice' if given else 'is empty'}; give each once")
    searches = [steps_of(options, model, objective) for model in options.model for objective in options.objective]
    check_storage(options)
    subjects, keys = check(searches, runner)
    if options.dry_run:
        _foresee(searches, runner)
        return True
    stopped = {steps[0].search: reason for steps in searches if (reason := _run(steps, runner))}
    unwritten = _report(options, subjects, keys)
    for search, reason in stopped.items():
        print_text(f"{search} stopped at {reason}", "red")
    others = "; the same command continues with the others" if stopped else ""
    print_text(f"{len(searches) - len(stopped)} of {len(searches)} searches complete{others}")
    if unwritten:
        print_text(f"no report: {unwritten}", "red")
    return not stopped and not unwritten


def _report(options: PaperOptions, subjects: list[Inputs], keys: tuple[str, ...]) -> str:
    """Write the report of all models and objectives; why there is none, or nothing."""
    from sweeps.reporting.report import ReportOptions, write_report

    console.rule("report", style="dim")
    try:
        ledger = connect_to_read(options.tracking_uri, options.folder)
        experiments = tuple(dict.fromkeys(experiment_of(ledger, one) for one in subjects))
        there: dict[str, Any] = {"storage": options.storage, "tracking_uri": options.tracking_uri}
        write_report(ReportOptions(**there, experiment=experiments, objective=options.objective, search=keys))
    except Exception as error:  # noqa: BLE001  (what was trained is there all the same)
        return _said(error)
    return ""


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def _run(steps: list[Step], runner: Runner) -> str:
    """Run the stages of one objective; why it stopped, or nothing."""
    for number, step in enumerate(steps, 1):
        console.rule(f"{step} ({number} of {len(steps)})", style="dim")
        try:
            run_stage(step.stage, step.options, runner)
        except Exception as error:  # noqa: BLE001  (whatever ends one objective must not end the others)
            runner.stop()  # its Ray too
            return f"{step.stage.name}: {_said(error)}"
    return ""


def _foresee(searches: list[list[Step]], runner: Runner) -> None:
    """List what each stage would train, then what all of it would cost; what stages share is counted once.

    Fields that are not decided yet count with their defaults, which are points of the grids.
    """
    first = searches[0][0].options
    resources = runner.place(first)
    kind = "GPU" if resources.use_gpu else "CPU"
    headers = ("search", "stage", "to train", "shared", "steps", f"{kind}-hours", f"on {resources.place}")
    rows = []
    seen: set[str] = set()
    models: set[str] = set()
    forecasts: list[Forecast] = []
    everything: list[Planned] = []
    for steps in searches:
        for step in steps:
            todo = run_stage(step.stage, step.options, runner).todo
            unseen = [trial for trial in todo if _training_of(trial, step.options) not in seen]
            fresh, forecast = _forecast(unseen, step.options, runner, prepared=step.options.model in models)
            models |= {step.options.model} if fresh else set()
            seen |= {_training_of(trial, step.options) for trial in fresh}
            forecasts.append(forecast)
            everything += fresh
            cells = (str(len(fresh)), str(len(todo) - len(fresh)), f"{forecast.steps:,}")
            hours, elapsed = f"{forecast.hours:,.3f}", duration(forecast.elapsed_seconds)
            rows.append((step.search if step is steps[0] else "", step.stage.name, *cells, hours, elapsed))
    whole = total(forecasts)
    console.print(for_terminal(Table("all stages", headers, rows, words=(0, 1))))
    print_text(f"{whole.trials} to train in all; nothing was started")
    say_forecast(whole, everything, first)


def _training_of(trial: Planned, options: SweepOptions) -> str:
    return trial.digest if options.train_all else trial.training


def _forecast(
    todo: list[Planned], options: SweepOptions, runner: Runner, *, prepared: bool
) -> tuple[list[Planned], Forecast]:
    """Those that the ledger has not finished, were defaults chosen for what is open, and what they will cost."""
    ledger = connect_to_read(options.tracking_uri, options.folder)
    resources = runner.place(options)
    if ledger is not None and todo:
        experiment = experiment_of(ledger, todo[0].inputs)
        records = ledger.look_up_trials(experiment, [one.digest for one in todo])
        todo = plan_trainings(todo, records, ledger, experiment, train_all=options.train_all).train
    return todo, forecast_trials(todo, options, resources, ledger, prepared=prepared)


def main(arguments: list[str] | None = None, runner: Runner | None = None) -> None:
    """Run it from the command line; exit code 1 where a search stopped."""
    done: list[bool] = []
    run_program(PaperOptions, lambda options: done.append(run_paper(options, runner)), "mmpo paper", arguments)
    if not all(done):
        sys.exit(1)


if __name__ == "__main__":
    main()
