"""Checks before a stage starts, and the list of a dry run."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eval_workers.tracking.addresses import tracking_uri
from mmpo_train.config import ONLINE_OBJECTIVES, TrialConfig
from mmpo_train.data.sources import EMBEDDED
from mmpo_train.errors import InputError
from mmpo_train.recipes import find_recipe
from mmpo_train.storage.mirror import address_of, check_access
from mmpo_train.tables import Table, for_terminal, shortened
from mmpo_train.terminal import console, print_text, tell
from sweeps.cluster.nodes import counted
from sweeps.cluster.placement import TrialResources
from sweeps.cost.disk import room_needed
from sweeps.cost.of_trials import read_size
from sweeps.ledger.records import TrialRecord
from sweeps.plan.labels import words
from sweeps.plan.options import SweepEvaluation, SweepOptions
from sweeps.plan.stages import GridPoint, Stage
from sweeps.plan.trials import Planned
from sweeps.search.sharing import Plan

if TYPE_CHECKING:
    from mmpo_train.training import AnyInputs


def list_trials(
    stage: Stage,
    points: Sequence[GridPoint],
    records: Mapping[str, TrialRecord],
    plan: Plan,
    resources: TrialResources,
    still_open: Sequence[str] = (),
) -> None:
    """Print what would be trained, scored from another trial's checkpoints, or reused, and what each would ask for.

    Without a value for the fields that are `still_open` nothing can be known to be there already.
    """
    trials = [trial for point in points for trial in point.trials]
    inputs = trials[0].inputs
    todo, trainers = {trial.digest for trial in plan.train}, plan.trainer_of
    rows = []
    for trial in trials:
        config = trial.config
        steps = math.ceil(len(inputs.data.train) / config.pairs_per_step) * config.epochs
        known = "" if still_open else _in_ledger(records.get(trial.digest), trial.digest in todo)
        if trial.digest in trainers:
            known = f"scored: same model as {_name_of(trainers[trial.digest], trials)}"
        digest = "" if still_open else trial.digest
        asks = str(resources) if trial.digest in todo else ""
        rows.append((digest, trial.label, str(config.epochs), str(steps), asks, known))
    title = f"{stage.title}: {counted(len(trials), 'trial')} of {trials[0].config.objective}"
    headers = ("trial", words(stage.axis), "epochs", "steps", "asks for", "ledger")
    console.print(for_terminal(shortened(Table(title, headers, rows, words=(4, 5)))))
    if still_open:
        said = f"{len(todo)} to train at most, as {' and '.join(map(words, still_open))} will be chosen"
    else:
        reused = len({trial.digest for trial in trials} - todo - trainers.keys())
        said = f"{len(todo)} to train, {f'{len(trainers)} to score, ' if trainers else ''}{reused} to reuse"
    print_text(f"{said}; {resources.concurrent} at a time; nothing was started")


def _name_of(digest: str, trials: Sequence[Planned]) -> str:
    return next((one.label for one in trials if one.digest == digest), f"trial {digest}")


def _in_ledger(record: TrialRecord | None, to_train: bool) -> str:
    if record is None:
        return "new"
    if not to_train:
        return f"{record.status} in {record.stage}"
    return "to be judged" if record.status == "finished" else f"{record.status}, continues"


def check_judges(trials: Iterable[TrialConfig], judge: str = "", *, with_keys: bool = True) -> None:
    """Refuse, before anything is started, unusable judges of online trials and of a study's answers."""
    from eval_workers.judging.judges import open_judge
    from eval_workers.judging.specs import check_judge_spec

    asked = {judge} if judge else set()
    for trial in trials:
        asked |= {trial.judge} if trial.objective in ONLINE_OBJECTIVES else set()
        if "tiny" in asked and not all(source.split(":")[0] in EMBEDDED for source in trial.dataset):
            raise InputError(
                f"the judge tiny knows tiny's own questions only, not those of {', '.join(trial.dataset)}; name "
                f"another with {'--judge ' if judge else '--set judge='}openai:MODEL or anthropic:MODEL"
            )
    for spec in sorted(asked):
        if with_keys:
            open_judge(spec)
        else:
            check_judge_spec(spec)


def check_suites(trial: TrialConfig, settings: SweepEvaluation, storage: Path) -> None:
    """Refuse, before anything is started, evaluations that cannot run: a missing file, an unknown task, no key."""
    from eval_workers.harness.tasks import HARNESS_TASKS, missing_data
    from eval_workers.suites import build

    gpus = settings.gpus_per_actor
    if settings.actors_per_suite < 1 or gpus < 0 or (gpus > 1 and gpus % 1):
        raise InputError(
            "--evaluation.actors-per-suite must be at least 1, --evaluation.gpus-per-actor a part of a GPU or a whole "
            f"number of them, got {settings.actors_per_suite} and {gpus:g}"
        )
    suites = sorted(set(trial.evaluations) - {"reward"})
    if suites:
        tell(f"checking that {' and '.join(suites)} can run")
    for suite in suites:
        build(suite, settings, storage, tiny=trial.model == "tiny", precision=trial.precision)
    if "harness" in trial.evaluations and settings.task_data:
        missing = missing_data(settings.harness_tasks or HARNESS_TASKS, settings.task_data)
        if missing:  # no checkpoint of the sweep would have a mean
            raise InputError("\n".join(["the folder of task data lacks what the harness needs:", *missing]))


def check_storage(options: SweepOptions) -> None:
    """Refuse, before anything is started, an object store that cannot be used. A dry run does not try it."""
    if options.dry_run:
        return
    check_access(options.folder)
    if address_of(options.folder) and not tracking_uri(options.tracking_uri):
        _say_where_the_ledger_is(options.folder)


@cache
def _say_where_the_ledger_is(folder: Path) -> None:
    print_text(
        f"the ledger is a database on this machine only, in {folder}; to keep it elsewhere, start an MLflow server and "
        "give its address with --tracking-uri or MLFLOW_TRACKING_URI"
    )


def check_disk(inputs: AnyInputs, trials: int, at_a_time: int = 1, *, stops: bool = False) -> None:
    """Raises InputError if the checkpoints do not fit on the disk, which would otherwise show hours later.

    If a search `stops` trials early, each of them may keep its state.
    """
    folder, is_copy = inputs.storage.resolve(), bool(address_of(inputs.storage))
    if is_copy and os.environ.get("RAY_ADDRESS"):
        trials = 0  # they write on the nodes where they train
    while not folder.exists():
        folder = folder.parent
    size = read_size(inputs.model_folder, find_recipe(inputs.config.model).name) if trials else None
    needed = room_needed(inputs.config, size, trials, at_a_time, stops=stops)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{inputs.storage} has {free / 1e6:,.0f} MB free, this stage writes up to {needed / 1e6:,.0f} MB; "
            f"free some space, or give another folder {'in MMPO_CACHE' if is_copy else 'with --storage'}"
        )
