"""Trials that a command wants: which of them the ledger has finished, and the training of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.config import TrialConfig
from mmpo_train.terminal import console, preparing, print_examples
from sweeps.cluster.connection import cluster, map_on_cluster, trial_resources
from sweeps.cluster.discovery import nodes_now
from sweeps.cluster.evaluator_seats import seat_evaluators
from sweeps.cluster.placement import concurrency, hardware, wish_of
from sweeps.ledger.records import COMPLETE
from sweeps.ledger.tags import HARDWARE
from sweeps.plan.options import SweepOptions
from sweeps.plan.trials import Planned
from sweeps.trials.board import Board, Row

if TYPE_CHECKING:
    from mmpo_train.data.tokens import CutCount
    from mmpo_train.prepare import Inputs
    from mmpo_train.trial.places import Places
    from sweeps.ledger.ledger import Ledger
    from sweeps.ledger.records import TrialRecord
    from sweeps.ledger.stage_log import StageLog
    from sweeps.ledger.trial_log import TrialLog


def find_records(ledger: Ledger, experiment: str, trials: Iterable[Planned]) -> dict[str, TrialRecord]:
    """Digest -> record of the trials that the ledger knows."""
    return ledger.find_trials(experiment, list({trial.digest: None for trial in trials}))


def unfinished(trials: Iterable[Planned], records: dict[str, TrialRecord]) -> list[Planned]:
    """The trials that have to be trained, each once, in the order given.

    One that is finished, but asks for evaluations that have left no numbers, is among them: its checkpoints are
    there, so that it is judged and not trained.
    """
    todo: dict[str, Planned] = {}
    for trial in trials:
        record = records.get(trial.digest)
        wanted = set(trial.config.evaluations) - {"reward"}
        done = record is not None and record.status in COMPLETE
        if record is None or not done or (record.status == "finished" and wanted - record.judged_by):
            todo.setdefault(trial.digest, trial)
    return list(todo.values())


def train_planned(
    todo: Sequence[Planned],
    options: SweepOptions,
    ledger: Ledger,
    log: StageLog,
    *,
    title: str,
    axis: str,
    judge: str = "",
    goes_on: Callable[[str, int, float], bool] | None = None,
) -> dict[str, dict[str, float]]:
    """Prepare what the trials need and train them; returns the starting model's metrics by each trial's objective."""
    from mmpo_train.prepare import materialise
    from sweeps.trials.evaluators import Evaluators, actors_needed
    from sweeps.trials.tune import train_trials

    with cluster(options.verbose):
        resources, settings = trial_resources(wish_of(options)), options.evaluation
        actors = actors_needed([trial.config for trial in todo], settings, judge)
        seat, resources, said = seat_evaluators(resources, nodes_now(), actors, settings)
        if said:
            console.print(said, style="dim", highlight=False, soft_wrap=True)
        places: dict[int, Places] = {}
        audited: set[Path] = set()
        for inputs, named in _distinct([trial.inputs for trial in todo]).items():
            with preparing() as say:
                map_shards = map_on_cluster(resources, _share_of(say))
                places[inputs], counts = materialise(named, map_shards, say)
            if places[inputs].tokens not in audited:  # objectives may need other things made of the same data
                audited.add(places[inputs].tokens)
                _print_audit(named, counts, log, "audit" if len(audited) == 1 else f"audit-{len(audited)}")
                if options.show_examples:
                    log.log_table("examples", print_examples(named, options.show_examples))
        ledger.require_free([trial.digest for trial in todo])
        by_digest = {trial.digest: trial for trial in todo}
        rows = {trial.digest: Row(trial.label, trial.config.epochs) for trial in todo}

        def open_log(config: TrialConfig) -> TrialLog:
            return log.open_trial(config, by_digest[config.digest].run_name, {HARDWARE: str(hardware(resources))})

        jobs = [(trial.config, places[id(trial.inputs)]) for trial in todo]

        def at_a_time() -> int:
            return concurrency(resources, seat.leaves(nodes_now()), options.concurrent_trials)

        board = Board(console, f"{title}, {resources} each", axis, rows, at_a_time())
        evaluators = Evaluators(jobs, options.folder, settings, seat=seat, judge=judge)
        try:
            return train_trials(jobs, evaluators, options.folder, resources, open_log, board, at_a_time, goes_on)
        finally:
            evaluators.close()


def _distinct(inputs: Sequence[Inputs]) -> dict[int, Inputs]:
    return {id(one): one for one in inputs}


def _share_of(say: Callable[[str, float], None]) -> Callable[[float], None]:
    return lambda share: say("reference log-probabilities", share)


def _print_audit(inputs: Inputs, counts: dict[str, CutCount], log: StageLog, name: str) -> None:
    audit = inputs.data.audit.lines() + [line for split, count in counts.items() for line in count.lines(split)]
    _say_once("\n".join(audit))
    log.log_json(name, {"rows": inputs.data.audit.as_dict(), "tokens": {name: vars(c) for name, c in counts.items()}})


@cache
def _say_once(text: str) -> None:
    """A search over many rounds or stages has the same data in all of them."""
    console.print(text, style="dim", highlight=False)
