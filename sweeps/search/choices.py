"""The values that earlier stages chose: by rule, or by a person in MLflow. An option on the command line overrules
both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpo_train.config import TrialConfig, identity
from mmpo_train.errors import InputError
from mmpo_train.redaction import masked_values
from mmpo_train.typed.programs import as_typed
from sweeps.grids import MARGINS, SEARCH_EPOCHS
from sweeps.ledger.chosen import ALIAS, REGISTERED
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.records import COMMAND, COMPLETE, FIXED, GRID, SETTINGS, ChildRecord, StageRecord
from sweeps.ledger.runs import BY_PERSON, BY_RULE, WINNER
from sweeps.ledger.tags import WINNER_BY, winner_of
from sweeps.plan.labels import option, shown, words
from sweeps.plan.order import DECIDED_IN, TUNED


class Undecided(InputError):
    """An earlier stage has not chosen a value yet."""


@dataclass(frozen=True)
class Choice:
    """A field's value, and a sentence that says how it was chosen."""

    field: str
    value: float
    said: str
    epochs: int | None = None
    """Those of the search that chose it; None where it was given."""

    @classmethod
    def of(cls, field: str, value: float, how: str, run: StageRecord | None = None) -> Choice:
        """A choice whose sentence begins with field and value. `run` is the stage that made it."""
        epochs = None if run is None else _settings(run).get("epochs")
        return cls(field, value, f"{words(field)} {shown(field, value)}: {how}", epochs)


@dataclass(frozen=True)
class Question:
    """A request for a field's value, for trials with the settings of `base`."""

    field: str
    base: TrialConfig
    """The config, fingerprints included."""
    decided: Mapping[str, Any]
    """Fields that are chosen already. A stage counts only if it was run with these values."""
    any_epochs: bool = False
    """Whether a search of any length will do. One of `search_epochs` comes first."""
    search_epochs: int = SEARCH_EPOCHS
    command: str = ""
    """The command of the earlier stage, for messages if it was not run at all."""

    @property
    def stage(self) -> str:
        return DECIDED_IN[self.field]

    @property
    def subject(self) -> str:
        return f"{self.stage} of {self.base.objective}/{Path(self.base.model).name}"

    def advice(self, run: StageRecord | None = None) -> str:
        """The next step for the user if the stage has not chosen a value."""
        typed = run.tags.get(COMMAND, self.command) if run is not None else self.command
        return f"run {as_typed(typed)}{' again' if run is not None else ''}, or pass {option(self.field)}"


def stage_tags(base: TrialConfig, axis: str, command: str) -> dict[str, str]:
    """Tags of a stage's run by which later stages know whether its winner applies to them."""
    kept = {name: value for name, value in _plain(identity(base)).items() if name != axis}
    return {
        SETTINGS: json.dumps({name: value for name, value in kept.items() if name not in TUNED}),
        FIXED: json.dumps({name: value for name, value in kept.items() if name in TUNED}),
        COMMAND: command,
    }


def choose(ledger: Ledger | None, experiment: str, question: Question) -> Choice:
    """The value that the field's stage has chosen: a person's choice, otherwise the winner by rule.

    The stage may have been run several times. Runs with the question's settings count, for the rule the last that
    ended. Raises Undecided, naming what is missing, if nothing is chosen, and InputError for an unusable choice of a
    person.
    """
    runs = ledger.find_stages(experiment, question.stage, question.base.objective) if ledger is not None else []
    if ledger is None or not runs:
        raise Undecided(f"{question.subject} has not been run: {question.advice()}")
    beta = _beta_now(ledger, experiment, question)
    counting = _runs_that_count(runs, question, beta)
    children = {run.run_id: ledger.find_children(experiment, run.run_id) for run in counting}
    moved = {run.run_id: ledger.persons_version(run) for run in counting}
    run, person = _persons_choice(counting, children, moved, question)
    by_rule = winner_of(run.tags, question.field)
    if person is not None:
        value = person.number(question.field)
        where = f"chosen by a person in run {person.name} ({person.run_id}){_at(run, question, beta)}"
        if by_rule is not None:
            same = by_rule == value
            where += ", as by rule" if same else f", instead of {shown(question.field, by_rule)} by rule"
        return Choice.of(question.field, value, where, run)
    _require_whole(ledger, experiment, run, children[run.run_id], question)
    assert by_rule is not None
    measure = run.tags.get(WINNER_BY, "reward_accuracy")
    how = "" if measure == "reward_accuracy" else f", by {measure}"
    where = f"by rule in {run.title} (run {run.run_id}){how}{_at(run, question, beta)}"
    return Choice.of(question.field, by_rule, where, run)


def _runs_that_count(runs: list[StageRecord], question: Question, beta: float | None) -> list[StageRecord]:
    """The runs with the question's settings and decided fields; the first is the one that counts for the rule."""
    latest_first = sorted(runs, key=lambda run: -run.ended_ms)
    fitting = [run for run in latest_first if not _differences(run, question)]
    if not fitting:
        found = "; ".join(_differences(latest_first[0], question))
        raise Undecided(f"{question.subject} was run with other settings only ({found}): {question.advice()}")
    agreeing = [run for run in fitting if not _others(run, question)]
    if not agreeing:
        was = _fixed(fitting[0])
        told = [
            f"{words(name)} {shown(name, was[name])}, and {shown(name, question.decided[name])} is chosen now"
            for name in _others(fitting[0], question)
        ]
        raise Undecided(f"{question.subject} was run at {'; '.join(told)}: {question.advice()}")

    def fit(run: StageRecord) -> tuple[bool, bool]:
        return _settings(run).get("epochs") == question.search_epochs, _fixed(run).get("beta", beta) == beta

    closest = [run for run in agreeing if fit(run) == max(map(fit, agreeing))]
    return sorted(closest, key=lambda run: run.tags.get("stage.state") != "finished")


def _persons_choice(
    runs: list[StageRecord], children: Mapping[str, list[ChildRecord]], moved: Mapping[str, str], question: Question
) -> tuple[StageRecord, ChildRecord | None]:
    """The run with a person's tag, or with the alias if a person moved it, and its stage; without one the first stage.

    `moved`: a stage's run -> the trial's run whose version a person gave the alias, or nothing.
    """
    for run in runs:
        if run.tags.get(WINNER, "").strip():
            raise InputError(
                f"the tag {WINNER} is on {run.title} ({run.run_id}) itself; set it on a run below that one"
            )
    tagged = [
        (run, child)
        for run in runs
        for child in children[run.run_id]
        if child.tags.get(WINNER, "").strip() not in ("", BY_RULE)
    ]
    by_alias = [(run, _with_alias(run, children[run.run_id], moved[run.run_id])) for run in runs if moved[run.run_id]]
    for _, child in tagged:
        named = f"run {child.name} ({child.run_id}) has the tag {WINNER}={child.tags[WINNER]}"
        if child.tags[WINNER].strip() != BY_PERSON:
            raise InputError(f"{named}; a person's choice is {WINNER}={BY_PERSON}")
        if child.state != "finished":
            ending = f"{child.state}: {child.reason}" if child.reason else child.state
            raise InputError(f"{named}, but its trial has no result ({ending}); choose one that finished")
    if len({child.params[question.field] for _, child in tagged + by_alias}) > 1:
        named = " and ".join(f"{child.name} ({child.run_id})" for _, child in tagged + by_alias)
        alias = f", or the alias {ALIAS} that a person moved" if by_alias else ""
        raise InputError(
            f"{question.subject}: {named} have the tag {WINNER}={BY_PERSON}{alias}; leave it on one of them"
        )
    return (tagged + by_alias)[0] if tagged or by_alias else (runs[0], None)


def _with_alias(run: StageRecord, children: list[ChildRecord], trial_run_id: str) -> ChildRecord:
    found = [child for child in children if trial_run_id in (child.run_id, child.tags.get("taken_from"))]
    if not found:
        raise InputError(
            f"the alias {ALIAS} of the registered model {run.tags[REGISTERED]!r} is on a version of run "
            f"{trial_run_id}, which is not below {run.title} ({run.run_id}); move it to a version of a run that is"
        )
    return found[0]


def _require_whole(
    ledger: Ledger, experiment: str, run: StageRecord, children: list[ChildRecord], question: Question
) -> None:
    """Raises Undecided, naming the missing points, unless every point of the stage has a result and one has won."""
    ended = {child.digest for child in children if child.state in COMPLETE}
    points = ledger.json_artifact(run.run_id, GRID) or []
    missing = [
        point["label"]
        for point in points
        if not all(_ended(ledger, experiment, ended, digest) for digest in point["digests"])
    ]
    advice = question.advice(run)
    if missing:
        field = words(question.field)
        several = f"{field}s" if question.field in ("learning_rate", "beta") else f"values of {field}"
        there = f"{len(points) - len(missing)} of {len(points)} {several} (missing {', '.join(missing)})"
        raise Undecided(f"{question.subject} lists {there}: {advice}")
    if run.tags.get("stage.state") != "finished":
        raise Undecided(f"{question.subject} has not ended ({run.tags.get('stage.reason') or 'interrupted'}): {advice}")
    if winner_of(run.tags, question.field) is None:
        raise Undecided(f"{question.subject} has no winner ({run.tags.get('winner.reason', 'no reason')}): {advice}")


def _ended(ledger: Ledger, experiment: str, known: set[str], digest: str) -> bool:
    if digest in known:
        return True
    record = ledger.look_up(experiment, digest)
    return record is not None and record.status in COMPLETE


def _differences(run: StageRecord, question: Question) -> list[str]:
    if SETTINGS not in run.tags:
        return ["it has no record of them"]
    here, there = _plain(identity(question.base)), _settings(run)
    names = [name for name in {**here, **there} if name not in (*TUNED, question.field)]
    usual = _plain(vars(TrialConfig()))
    told = []
    for name in names:
        is_here, was_there = here.get(name, usual.get(name)), there.get(name, usual.get(name))
        if is_here != was_there and not (name == "epochs" and question.any_epochs):
            told.append(f"{name}: {was_there} there, {is_here} here")
    return told


def _beta_now(ledger: Ledger, experiment: str, question: Question) -> float | None:
    """The beta of stage 2, for the margin of final runs, which have betas of their own."""
    if question.field not in MARGINS or "beta" in question.decided:
        return question.decided.get("beta")
    try:
        return choose(ledger, experiment, replace(question, field="beta")).value
    except Undecided:
        return None


def _at(run: StageRecord, question: Question, beta: float | None) -> str:
    """The beta at which a margin was tuned, as the end of a sentence, for final runs."""
    was = _fixed(run).get("beta")
    if question.field not in MARGINS or "beta" in question.decided or was is None:
        return ""
    now = f", while stage 2 now chooses {shown('beta', beta)}" if beta is not None and beta != was else ""
    return f", at beta {shown('beta', was)}{now}"


def _settings(run: StageRecord) -> dict[str, Any]:
    return _plain(json.loads(run.tags.get(SETTINGS, "{}")))


def _fixed(run: StageRecord) -> dict[str, Any]:
    return _plain(json.loads(run.tags.get(FIXED, "{}")))


def _others(run: StageRecord, question: Question) -> list[str]:
    """Decided fields for which the stage was run with another value."""
    fixed = _fixed(run)
    return [name for name, value in question.decided.items() if fixed.get(name, value) != value]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as a tag returns them: with JSON's types, secrets masked."""
    return masked_values(json.loads(json.dumps(dict(values))))
