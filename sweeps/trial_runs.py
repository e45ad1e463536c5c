"""Which run in MLflow counts for a trial, where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps.mlflow_store import Store
from sweeps.records import COMPLETE

if TYPE_CHECKING:
    from mlflow.entities import Run

FEW = 10
"""Up to so many trials are searched for one by one."""


def runs_that_count(store: Store, experiment_id: str, digests: Sequence[str], *, mark: bool) -> dict[str, Run]:
    """Digest -> run of the trials that are there: a complete one before any other, then the oldest.

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
