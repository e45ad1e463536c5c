"""The runs below a stage's run: its own trials, and stand-ins for trials that another stage trained.

A stand-in has the params and the numbers of the original, so that MLflow shows and compares all points of a stage. It
has no `trial.digest`, so the ledger does not treat it as a trial.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from eval_workers.tracking.store import Store, param_number
from mmpo_train.errors import InputError
from sweeps.ledger.records import COMPLETE, SEARCHES, ChildRecord

if TYPE_CHECKING:
    from mlflow.entities import Run

WINNER, BY_RULE, BY_PERSON = "winner", "auto", "person"
"""The tag of a stage's winner, and its two values: set by the program, set by a person."""


FEW = 10
"""Most trials that are searched for one by one."""


def children_of(store: Store, experiment_id: str, stage_run_id: str) -> list[ChildRecord]:
    """The stage's runs, the oldest first, each trial once."""
    found: dict[str, ChildRecord] = {}
    for run in store.search(experiment_id, {"mlflow.parentRunId": stage_run_id}):
        tags = dict(run.data.tags)
        digest = tags.get("trial.digest") or tags.get("taken.digest", "")
        if digest and "duplicate_of" not in tags:
            state = tags.get("trial.state") or tags.get("taken.state", "running")
            reason = tags.get("trial.reason") or tags.get("taken.reason", "")
            params = dict(run.data.params)
            record = ChildRecord(run.info.run_id, run.info.run_name, digest, state, reason, params, tags)
            found.setdefault(digest, record)
    return list(found.values())


def take(store: Store, original_id: str, stage_run_id: str, stage: str, name: str) -> None:
    """Create or update the stand-in of a trial below a stage. Repeating it changes nothing."""
    original = store.client.get_run(original_id)
    digest, origin = original.data.tags["trial.digest"], original.data.tags.get("stage.name", "")
    identity = {"ledger.kind": "taken", "taken.digest": digest, "mlflow.parentRunId": stage_run_id}
    note = f"Trained as run {original_id}" + (f" of {origin}" if origin else "") + "; its curves and files are there."
    tags = {"stage.name": stage, "taken_from": original_id, "taken_from.stage": origin, "mlflow.note.content": note}
    run = store.find_or_create(original.info.experiment_id, identity, tags, name, original.info.start_time)
    run_id, state = run.info.run_id, original.data.tags.get("trial.state", "running")
    as_of = f"{state} {original.info.end_time} {len(original.data.metrics)}"
    if run.data.tags.get("taken.as_of") == as_of:
        return
    store.log_params(run, original.data.params)
    _copy_numbers(store, original, run)
    status = "FINISHED" if state == "finished" else "FAILED"
    store.client.set_terminated(run_id, status, original.info.end_time)
    reason = original.data.tags.get("trial.reason", "")
    now = {"taken_from": original_id, "taken.state": state, "taken.reason": reason, "taken.as_of": as_of}
    store.log_tags(run_id, now)


def _copy_numbers(store: Store, original: Run, run: Run) -> None:
    """What its checkpoints scored in each epoch, and of the curves over steps the last value, with their own times."""
    epochs = int(param_number(original.data.params, "epochs", 1))
    batch = []
    for name in original.data.metrics:
        points = sorted(store.client.get_metric_history(original.info.run_id, name), key=lambda point: point.step)
        points = points if len(points) <= epochs else points[-1:]
        there = set()
        if name in run.data.metrics:
            there = {point.step for point in store.client.get_metric_history(run.info.run_id, name)}
        batch += [(name, point.value, point.timestamp, point.step) for point in points if point.step not in there]
    store.log_metrics(run.info.run_id, batch)


def mark_winner(
    store: Store, experiment_id: str, stage_run_id: str, digests: Collection[str], search: str = ""
) -> None:
    """Move the tag of the winner by rule to the runs of these trials. What a person set stays.

    Runs of an older version get the key of their search.
    """
    for child in children_of(store, experiment_id, stage_run_id):
        tag = child.tags.get(WINNER)
        if search and SEARCHES not in child.tags:
            store.client.set_tag(child.run_id, SEARCHES, search)
        if child.digest in digests and tag is None:
            store.client.set_tag(child.run_id, WINNER, BY_RULE)
        elif child.digest not in digests and tag == BY_RULE:
            store.client.delete_tag(child.run_id, WINNER)


def trial_called(store: Store, named: str) -> Run:
    """The one trial's run whose id or digest begins so. Raises InputError if there is none, or are several."""
    every = [run for one in store.experiments({}) for run in store.search(one.experiment_id, {"ledger.kind": "trial"})]
    every = [run for run in every if "duplicate_of" not in run.data.tags]
    found = [
        run for run in every if any(one.startswith(named) for one in (run.info.run_id, run.data.tags["trial.digest"]))
    ]
    if named and len(found) == 1:
        return found[0]
    running = [run for run in found or every if run.data.tags.get("trial.state") == "running"]
    listed = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in running[:10]) or "none"
    what = "the name of several trials" if found else "no run and no digest of a trial"
    raise InputError(f"{named!r} is {what}; running are: {listed}")


def runs_that_count(store: Store, experiment_id: str, digests: Sequence[str], *, mark: bool) -> dict[str, Run]:
    """Digest -> run of the trials that the ledger has: a complete run if there is one, then the oldest.

    `mark` tags the others with `duplicate_of`.
    """
    if len(digests) > FEW:  # a server would be asked a thousand times
        found = store.search(experiment_id, {"ledger.kind": "trial"})
    else:
        found = [run for digest in digests for run in store.search(experiment_id, {"trial.digest": digest})]
    by_digest: dict[str, list[Run]] = {digest: [] for digest in digests}
    for run in found:
        by_digest.get(run.data.tags["trial.digest"], []).append(run)
    return {digest: _that_counts(store, runs, mark) for digest, runs in by_digest.items() if runs}


def _that_counts(store: Store, runs: list[Run], mark: bool) -> Run:
    runs = [run for run in runs if "duplicate_of" not in run.data.tags] or runs
    runs.sort(key=_is_incomplete)
    # Among incomplete runs the younger may still become the one that counts.
    if mark and not _is_incomplete(runs[0]):
        store.mark_duplicates(runs[0], runs[1:])
    return runs[0]


def _is_incomplete(run: Run) -> bool:
    return run.data.tags.get("trial.state") not in COMPLETE
