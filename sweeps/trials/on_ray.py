"""Trials on Ray, on this machine or on the cluster at RAY_ADDRESS. Ray itself is imported when it is needed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mmpo_train.terminal import preparing, print_text, tell
from sweeps.cluster.connection import leave, map_on_cluster, reach, trial_resources
from sweeps.cluster.discovery import nodes_now
from sweeps.cluster.evaluator_seats import seat_evaluators
from sweeps.cluster.placement import TrialResources, concurrency
from sweeps.plan.options import SweepOptions
from sweeps.trials.listener import Listener
from sweeps.trials.work import Work

if TYPE_CHECKING:
    from mmpo_train.training import AnyInputs, Counts, Prepared


class OnRay:
    """The default runner: several trials at a time, evaluated by actors."""

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose

    def place(self, options: SweepOptions, evaluators: int = 0) -> TrialResources:
        """The resources of as many trials as fit, beside the evaluators if there are any."""
        resources = trial_resources(options)
        if not evaluators:
            return resources
        seat, resources, said = seat_evaluators(resources, nodes_now(), evaluators, options.evaluation)
        if said:
            print_text(said, "dim")
        return dataclasses.replace(resources, seat=seat)

    def tokenise(self, inputs: AnyInputs, *, keep: bool) -> Counts:
        """On this machine, without Ray."""
        from mmpo_train.training import count_tokens

        with preparing() as say:
            return count_tokens(inputs, say, keep=keep)

    def prepare(self, inputs: AnyInputs, resources: TrialResources) -> Prepared:
        """The reference model runs on all nodes of the cluster."""
        from mmpo_train.training import materialise

        reach(self.verbose)
        from sweeps.workers.ray_worker import in_fork, warm_up

        warm_up("GPU" if resources.use_gpu else "CPU")
        with preparing() as say:
            shards = map_on_cluster(resources, in_fork, lambda share: say("reference log-probabilities", share))
            return materialise(inputs, shards, say)

    def train(self, work: Work, listener: Listener) -> dict[str, dict[str, float]]:
        """A trial that fails or diverges is recorded as such; the others go on."""
        reach(self.verbose)
        from sweeps.trials.evaluators import Evaluators
        from sweeps.trials.tune import tune_trials
        from sweeps.workers.evaluating import Workplace

        tell("starting the evaluators and the first trials")
        seat = work.resources.seat

        def at_a_time() -> int:
            return concurrency(work.resources, seat.leaves(nodes_now()), work.options.concurrent_trials)

        evaluators = Evaluators(work, Workplace(seat.options, seat.actors if seat.gpus >= 1 else 0))
        with listener.board.live(), listener.at_work(evaluators):
            baselines = evaluators.starting_models()
            tune_trials(work, listener, at_a_time)
            return {digest: evaluators.workplace.value(scores) for digest, scores in baselines.items()}

    def stop(self) -> None:
        """Disconnect, and stop a Ray that was started."""
        leave()
