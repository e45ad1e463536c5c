"""The trials that this driver has open: each one's journal, and the thread that delivers it to MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval_workers.tracking.delivery import Delivery
from eval_workers.tracking.store import Store
from mmpo_train.redaction import masked
from sweeps.ledger.journal import FILE_NAME, Journal, TrialTaken, read_entries
from sweeps.ledger.records import COMPLETE
from sweeps.ledger.trial_log import TrialLog


class OpenTrials:
    """What a ledger and its stages write through. All writing returns at once and keeps its order."""

    def __init__(self, store: Store, folder: Path):
        self.store = store
        self.folder = folder
        """Holds a folder for each trial, named by its digest."""
        self.delivery = Delivery(f"MLflow at {store.address.shown}", store.may_pass)
        self._logs: dict[str, TrialLog] = {}

    def open(self, opened: Mapping[str, Any], digest: str) -> TrialLog:
        """The log of a trial, begun or gone on with. Raises TrialTaken when another driver has it."""
        held = self.take(digest)
        held.append({**opened, "journal": held.identity}, durable=True)
        return self._log_of(held)

    def take(self, digest: str) -> Journal:
        """The trial's journal. Raises TrialTaken when another driver has it."""
        former = self._logs.get(digest)
        # A retry need not wait until the end of the failed attempt is delivered.
        held = former.hand_over() if former is not None else None
        return held or Journal(self.folder / digest)

    def discard(self, digest: str) -> None:
        """Remove the journal of a trial. Raises TrialTaken when another driver has it."""
        held = self.take(digest)
        (self.folder / digest / FILE_NAME).unlink(missing_ok=True)
        held.close()

    def recover(self, experiment: str, digest: str, evaluations: int | None = None) -> bool:
        """Whether the journal holds a complete end that this ledger never received; it is queued then.

        Of a trial whose end it has: whether the journal has more than these `evaluations`, and so a file was lost.
        """
        entries = read_entries(self.folder / digest / FILE_NAME)
        last = {entry["kind"]: position for position, entry in enumerate(entries)}
        if not {"opened", "end"} <= last.keys() or last["opened"] > last["end"]:
            return False
        opened, end = entries[last["opened"]], entries[last["end"]]
        if end["state"] not in COMPLETE or opened["experiment"] != experiment:
            return False
        # Delivered here and yet not found: a person deleted the run to have the trial run again, unless this is a new
        # database in the place of a damaged one.
        here = self.store.address.shown
        delivered = [one for one in entries[last["end"] :] if one["kind"] == "delivered"]
        if evaluations is not None:
            if sum(entry["kind"] == "evaluation" for entry in entries) <= evaluations:
                return False
        elif any(masked(one["ledger"]) == here and self.store.has_run(one["run_id"]) for one in delivered):
            return False
        try:
            held = self.take(digest)
        except TrialTaken:  # by the driver that is delivering it
            return False
        self._log_of(held).end_as_journaled(end)
        return True

    def close(self) -> None:
        """Let go of all trials; what is not delivered stays in their journals."""
        self.delivery.stop()
        for log in self._logs.values():
            log.let_go()

    def _log_of(self, held: Journal) -> TrialLog:
        opened = [entry for entry in held.entries if entry["kind"] == "opened"][-1]
        self._logs[held.digest] = TrialLog(self.store, self.delivery, held, opened)
        return self._logs[held.digest]
