"""Clones of a command's trials: their names and tags, and the table that shows them apart from the ranking."""

import dataclasses
from collections.abc import Iterable, Mapping

from mmpo_train.config import TrialConfig, from_dict, identity
from mmpo_train.metric_names import REWARD_ACCURACY
from mmpo_train.tables import Table
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.tags import CLONED_IN
from sweeps.plan.trials import Planned


def parent_of(clone: TrialConfig) -> tuple[str, int]:
    """The trial whose state a clone starts from, and the state's step; no trial and 0 if it is no clone."""
    digest, _, step = clone.cloned_from.partition("@")
    return digest, int(step or 0)


def planned_clone(parent: Planned, clone: TrialConfig) -> Planned:
    """A clone of a trial of a command's list."""
    _, step = parent_of(clone)
    name = f"from step {step}, {_changes(parent, clone)}"
    return dataclasses.replace(
        parent, config=clone, label=f"{parent.label} {name}", run_name=f"{parent.run_name} {name}"
    )


def clone_tags(parent: Planned, parent_run: str, clone: TrialConfig, stage_run: str) -> dict[str, str]:
    """The tags of a clone's run."""
    _, step = parent_of(clone)
    changes = _changes(parent, clone)
    note = f"A clone of run {parent_run} ({parent.run_name}) after step {step}, from then on with {changes}. "
    note += (
        "The points until then are those of that run. It did not train under one setting: the ranking leaves it out."
    )
    tags = {CLONED_IN: stage_run, "cloned.from": parent_run, "cloned.step": str(step), "cloned.changes": changes}
    return tags | {"mlflow.note.content": note}


def clones_of(trials: Iterable[Planned], records: Mapping[str, TrialRecord]) -> list[tuple[Planned, TrialRecord]]:
    """The clones of these trials, and clones of clones, among the records, which are in the order of their start."""
    known, found = {one.digest: one for one in trials}, []
    for digest, record in records.items():
        clone = from_dict(record.config)
        parent = known.get(parent_of(clone)[0])
        if parent is not None and record.config:
            known[digest] = planned_clone(parent, clone)
            found.append((known[digest], record))
    return found


def clone_table(clones: Iterable[tuple[Planned, TrialRecord]]) -> Table:
    """A row for each clone, with its best epoch."""
    rows: list[list[str]] = []
    for clone, record in clones:
        scored = [(one.metrics.get(REWARD_ACCURACY) or 0.0, -one.epoch) for one in record.evaluations]
        accuracy, epoch = max(scored, default=(None, None))
        best = ["", ""] if accuracy is None or epoch is None else [f"{accuracy:.4f}", str(-epoch)]
        rows.append([clone.label, record.status, *best, record.run_id])
    return Table(
        "clones: not points of the grid, and no candidates, since none trained under one setting",
        ["clone", "state", "reward accuracy", "epoch", "run"],
        rows,
        words=(0, 1, 4),
    )


def _changes(parent: Planned, clone: TrialConfig) -> str:
    before, after = identity(parent.config) | {"cloned_from": clone.cloned_from}, identity(clone)
    return ", ".join(f"{name}={value}" for name, value in after.items() if before.get(name) != value)
