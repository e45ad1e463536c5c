"""What trains the trials of a command: the interface of a runner, and the choice of one by the options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mmpo_train.errors import InputError
from sweeps.cluster.placement import TrialResources
from sweeps.plan.options import SweepOptions
from sweeps.trials.listener import Listener
from sweeps.trials.work import Work

if TYPE_CHECKING:
    from mmpo_train.training import AnyInputs, Counts, Prepared


class Runner(Protocol):
    """Trains trials, on Ray or in this process; it lives as long as a command."""

    def place(self, options: SweepOptions, evaluators: int = 0) -> TrialResources:
        """The resources of a trial, and how many run at a time beside so many evaluators. Raises InputError if a trial
        can never run."""

    def tokenise(self, inputs: AnyInputs, *, keep: bool) -> Counts:
        """How much tokenisation cuts, before any model is loaded; the tables are written if they are to be kept."""

    def prepare(self, inputs: AnyInputs, resources: TrialResources) -> Prepared:
        """Make what the trials read, as `training.materialise` does."""

    def train(self, work: Work, listener: Listener) -> dict[str, dict[str, float]]:
        """Train and evaluate all trials; the listener receives their reports. Returns the starting model's metrics by
        each trial's objective: digest -> metrics."""

    def stop(self) -> None:
        """Release everything that the runner holds; its next call connects or starts again."""


@contextmanager
def running(options: SweepOptions, lent: Runner | None = None) -> Iterator[Runner]:
    """Yields the runner that the options name and stops it at the end; or yields `lent`, which is not stopped."""
    if lent is not None:
        yield lent
        return
    if options.runner == "process":
        from sweeps.trials.in_process import InProcess

        yield InProcess(options.verbose)
        return
    if options.runner != "ray":
        raise InputError(f"the runner {options.runner!r} is unknown: give ray or process in --runner or MMPO_RUNNER")
    from sweeps.trials.on_ray import OnRay

    runner = OnRay(options.verbose)
    try:
        yield runner
    finally:
        runner.stop()
