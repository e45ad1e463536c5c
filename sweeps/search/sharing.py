"""Train once, score many: trials whose model is the same are one training, and the others are scored from it.

Trials that differ in fields without effect on the gradient (`mmpo_train/acting_fields.py`) end with the same model. One
of them is trained. The others are scored by their own score from the log-probabilities of its checkpoints, and take
over what its other evaluations found.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpo_train.acting_fields import inert_fields
from mmpo_train.config import TrialConfig, replace
from mmpo_train.events import Point
from mmpo_train.metric_names import CURVE, EPOCH, VALIDATION
from mmpo_train.storage.mirror import is_here
from mmpo_train.terminal import print_text
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.records import COMPLETE, TrialRecord
from sweeps.ledger.stage_log import StageLog
from sweeps.ledger.tags import SHARED, SHARED_RUN, TRAINING
from sweeps.ledger.trial_log import now_ms
from sweeps.plan.trials import Planned
from sweeps.ranking.reasons import listed
from sweeps.search.scores import check_gradients, scored
from sweeps.search.train import unfinished


@dataclass(frozen=True)
class Shared:
    """A training that several trials share."""

    trained: Planned
    """The trial that is trained, or was; it may be of another stage. It asks for the evaluations of all."""
    scored: list[Planned]
    """The trials that are scored from its checkpoints."""

    def __str__(self) -> str:
        are = "are" if len(self.scored) > 1 else "is"
        return (
            f"{listed([one.label for one in self.scored])} {are} the same model as {self.trained.label} (trial "
            f"{self.trained.digest}); only the score differs: scored from its checkpoints"
        )


@dataclass(frozen=True)
class Plan:
    """How a command gets the results of its unfinished trials."""

    train: list[Planned]
    """Trials to train, and finished ones whose checkpoints still have to be evaluated."""
    shared: list[Shared]
    held: list[Planned]
    """Trials that a person has stopped, and those that would share their training."""

    @property
    def trainer_of(self) -> dict[str, str]:
        """Digest of a trial to score -> digest of the trial whose training it shares."""
        return {one.digest: shared.trained.digest for shared in self.shared for one in shared.scored}

    def check(self) -> None:
        """Raises InputError if trials that are to share a training have different gradients. Their inputs must have
        been prepared."""
        for shared in self.shared:
            check_gradients([shared.trained, *shared.scored])


def plan_trainings(
    trials: Sequence[Planned],
    records: Mapping[str, TrialRecord],
    ledger: Ledger | None,
    experiment: str,
    *,
    train_all: bool = False,
) -> Plan:
    """Which of the unfinished trials to train, and which to score from the checkpoints of another.

    A training that is finished is used: that of a trial in this list, the one that a trial in this list shares already,
    or any other in the ledger. If there is none, a trial that was begun is trained, otherwise the first in the list.
    With `train_all` each trial is trained, also if it shared a training before.
    """
    todo = unfinished(trials, {key: one for key, one in records.items() if not (train_all and one.shares)})
    stopped = {one.training for one, record in _known(trials, records) if record.held}
    held = [one for one in todo if one.training in stopped]
    todo = [one for one in todo if one.training not in stopped]
    if train_all:
        return Plan(todo, [], held)
    members, missing = _by_training(trials), _by_training(todo)
    done = {
        training: {
            one.digest: (one, record) for one, record in _known(members[training], records) if _is_trained(record)
        }
        for training in missing
    }
    done |= _elsewhere({name: members[name] for name, known in done.items() if not known}, ledger, experiment)
    plan = Plan([], [], held)
    for training, some in missing.items():
        known = done[training]
        begun = [one for one, record in _known(some, records) if not record.shares]
        trained, record = next(iter(known.values())) if known else ((begun or some)[0], None)
        followers = [one for one in some if one.digest not in known and one.digest != trained.digest]
        trained = _asking_for_all([trained, *followers])
        lacks_logps = record is not None and followers and not _has_logps(trained, record)
        if record is None or lacks_logps or unfinished([trained], {trained.digest: record}):
            plan.train.append(trained)
        plan.train.extend(one for one in some if one.digest in known and one.digest != trained.digest)
        if followers:
            plan.shared.append(Shared(trained, followers))
    return plan


def score_shared(plan: Plan, ledger: Ledger, experiment: str, log: StageLog) -> None:
    """Score the trials that share a training, and put them into the ledger. Without a result of that one they have
    none either; the same command tries again."""
    plan.check()
    for shared in plan.shared:
        record = ledger.find_trial(experiment, shared.trained.digest)
        if record is None or record.status not in COMPLETE:
            continue
        ledger.name_training(record, shared.trained.training)  # an older ledger has no names of trainings
        for one in shared.scored:
            _score(one, shared.trained, record, ledger, log)
        print_text(str(shared))


def discard_shared(todo: Iterable[Planned], records: Mapping[str, TrialRecord], ledger: Ledger) -> None:
    """Remove the records of trials that shared a training and are now to be trained."""
    for one in todo:
        record = records.get(one.digest)
        if record is not None and record.shares:
            ledger.discard(record)


def _score(one: Planned, trained: Planned, record: TrialRecord, ledger: Ledger, log: StageLog) -> None:
    note = (
        f"The same model as run {record.run_id} ({record.name}), whose training it shares: only the score differs. "
        "Curves over steps, files and checkpoints are there; the numbers here are by this trial's own score."
    )
    tags = {TRAINING: one.training, SHARED: record.digest, SHARED_RUN: record.run_id, "mlflow.note.content": note}
    trial = log.open_trial(one.config, one.run_name, tags)
    if record.status == "diverged":
        trial.diverged(f"it shares the training of {record.name}: {record.reason}")
        return
    steps = {epoch: step for step, epoch in record.curve(EPOCH)}
    for earlier in record.evaluations:
        result = scored(one, logps_folder(trained, earlier.epoch))
        others = {
            name: value
            for name, value in earlier.metrics.items()
            if value is not None and not name.startswith(VALIDATION)
        }
        own = {f"{VALIDATION}{name}": value for name, value in result.metrics.items()}
        if earlier.epoch in steps:
            curve = {f"{CURVE}{name}": value for name, value in result.metrics.items()}
            trial.points([Point(steps[earlier.epoch], now_ms(), curve)])
        trial.evaluated(earlier.epoch, own | others, result.correct, earlier.checkpoint)
    curves, found = ledger.evaluations_of(record.run_id)
    trial.points([Point(step, now_ms(), {name: value}) for name, curve in curves.items() for step, value in curve])
    trial.tag(found)
    trial.finish(None)


def logps_folder(trial: Planned, epoch: int) -> Path:
    """Folder of the log-probabilities of the validation pairs that the evaluator keeps of a checkpoint."""
    return trial.inputs.storage / "trials" / trial.digest / "evaluations" / f"epoch-{epoch:04d}" / "reward"


def _known(trials: Iterable[Planned], records: Mapping[str, TrialRecord]) -> list[tuple[Planned, TrialRecord]]:
    return [(one, records[one.digest]) for one in trials if one.digest in records]


def _is_trained(record: TrialRecord) -> bool:
    return record.status in COMPLETE and not record.shares


def _by_training(trials: Iterable[Planned]) -> dict[str, list[Planned]]:
    found: dict[str, list[Planned]] = {}
    for one in trials:
        found.setdefault(one.training, []).append(one)
    return found


def _elsewhere(
    wanted: Mapping[str, Sequence[Planned]], ledger: Ledger | None, experiment: str
) -> dict[str, dict[str, tuple[Planned, TrialRecord]]]:
    """For each training the finished trial that is in none of the lists, by its digest; empty if there is none."""
    found: dict[str, dict[str, tuple[Planned, TrialRecord]]] = {training: {} for training in wanted}
    inert = {training: inert_fields(some[0].config, some[0].completions) for training, some in wanted.items()}
    sharable = [training for training, fields in inert.items() if fields]
    trainers = ledger.find_trainings(experiment, sharable) if ledger is not None and sharable else {}
    usual = vars(TrialConfig())  # for fields that are younger than the record
    for training, record in trainers.items():
        first = wanted[training][0]
        own = {name: record.config.get(name, usual[name]) for name in inert[training]}
        one = dataclasses.replace(first, config=replace(first.config, own), label=record.name, run_name=record.name)
        if one.digest == record.digest:
            found[training] = {one.digest: (one, record)}
    return found


def _asking_for_all(trials: Sequence[Planned]) -> Planned:
    """The first trial, asking for the evaluations of all."""
    suites = dict.fromkeys(suite for one in trials for suite in one.config.evaluations)
    return dataclasses.replace(trials[0], config=replace(trials[0].config, {"evaluations": tuple(suites)}))


def _has_logps(trial: Planned, record: TrialRecord) -> bool:
    folders = [logps_folder(trial, one.epoch) for one in record.evaluations]
    return record.status == "diverged" or all(map(is_here, folders))
