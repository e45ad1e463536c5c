"""Trials one after the other in this process, without Ray: breakpoints work, errors are raised where they happen."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from mmpo_train.errors import InputError, Left
from mmpo_train.terminal import ended_by, preparing, told_by_signal
from sweeps.cluster.accelerators import ANY
from sweeps.cluster.discovery import local_nodes
from sweeps.cluster.placement import TrialResources, place
from sweeps.plan.options import SweepOptions
from sweeps.trials.listener import Listener
from sweeps.trials.work import Work

if TYPE_CHECKING:
    from mmpo_train.training import AnyInputs, Counts, Prepared


class InProcess:
    """The runner for debugging: the plain engine, and each checkpoint evaluated as soon as it is written."""

    def __init__(self, verbose: bool = False) -> None:
        if not verbose:
            warnings.filterwarnings("ignore")  # as in Ray's workers

    def place(self, options: SweepOptions, evaluators: int = 0) -> TrialResources:
        """One worker on this machine. Raises InputError for several workers, or several trials at a time."""
        several = options.workers_per_trial, options.min_workers_per_trial, options.concurrent_trials
        if max(several) > 1 or options.gpus_per_worker < 1:
            raise InputError(
                "--runner process trains one trial at a time with one worker: leave out --workers-per-trial, "
                "--min-workers-per-trial, --gpus-per-worker and --concurrent-trials, or give --runner ray"
            )
        alone: dict[str, Any] = {"workers_per_trial": 1, "min_workers_per_trial": 0}
        one = dataclasses.replace(options, **alone, accelerator=options.accelerator or ANY)
        nodes = local_nodes()
        found, note = place(one, nodes), "all in this process, without Ray"
        all_of_it: dict[str, Any] = {"cpus_per_worker": int(nodes.kinds[0].cpus), "concurrent": 1, "in_process": True}
        return dataclasses.replace(found, **all_of_it, note=note)

    def tokenise(self, inputs: AnyInputs, *, keep: bool) -> Counts:
        from mmpo_train.training import count_tokens

        with preparing(bars=False) as say:
            return count_tokens(inputs, say, keep=keep)

    def prepare(self, inputs: AnyInputs, resources: TrialResources) -> Prepared:
        """Each phase is printed; a progress bar would be in a debugger's way."""
        from mmpo_train.model.reference import in_process
        from mmpo_train.training import materialise

        with preparing(bars=False) as say:
            return materialise(inputs, in_process, say)

    def train(self, work: Work, listener: Listener) -> dict[str, dict[str, float]]:
        """Train in the given order. A trial that diverges is recorded as such; any other error is raised."""
        from mmpo_train.training import train_here
        from sweeps.trials.evaluators import Evaluators, judged_epochs
        from sweeps.trials.reasons import one_line

        evaluators, watched = Evaluators(work, Here()), listener.goes_on is not None

        def ask(request: dict[str, Any]) -> Any:
            evaluators.answering.make_segment(request)
            return lambda: True

        with told_by_signal() as told, listener.at_work(evaluators):
            listener.added.extend(work.trials)
            while listener.added:
                digest = listener.added.popleft()
                trial, places = listener.trials[digest]
                listener.begun(digest)
                listener.heard(digest, {"workers": 1})

                def hear(report: dict[str, Any], digest: str = digest) -> None:
                    listener.heard(digest, report)
                    listener.judged()

                try:
                    how: dict[str, Any] = {"watched": watched, "judged": judged_epochs(trial, places)}
                    train_here(trial, places, hear, ask=ask, told_to_go=lambda: bool(told()), **how)
                except Left:
                    raise ended_by(told()) from None
                except Exception as error:  # whatever ended the trial is in the ledger before it ends the command
                    listener.trained(digest, one_line(error))
                    raise
                listener.trained(digest)
            return {digest: scores.value for digest, scores in evaluators.starting_models().items()}

    def stop(self) -> None:
        """Nothing is held."""


@dataclasses.dataclass(frozen=True, eq=False)
class Done:
    """A result, which is ready at once."""

    value: Any


class Here:
    """Evaluators in this process, whose methods run when they are asked for."""

    def start(self, kind: type, *arguments: Any) -> Any:
        return kind(*arguments)

    def ask(self, method: Any, *arguments: Any) -> Done:
        return Done(method(*(one.value if isinstance(one, Done) else one for one in arguments)))

    def results(self, asked: Collection[Done], timeout_seconds: float) -> Iterator[tuple[Done, Any, None]]:
        return iter([(one, one.value, None) for one in asked])

    def value(self, reference: Done) -> Any:
        return reference.value

    def close(self) -> None:
        return None
