"""Proposals and importances of hyper-parameters. The door to optuna."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

from mmpo_train.storage.whole_file import whole_file

REDUCTION = 2
"""One in this many of the trials that reach an epoch continues."""
_DIGITS = 4


@dataclass(frozen=True)
class Range:
    """The range in which a field's values are searched."""

    low: float
    high: float
    log: bool = False


class Proposals:
    """TPE over several ranges at once, with asynchronous successive halving (ASHA) over epochs.

    The same seed and the same calls in the same order give the same proposals. Values are rounded to four digits.
    """

    def __init__(self, ranges: Mapping[str, Range], seed: int, random_first: int) -> None:
        """The first `random_first` proposals are drawn at random."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.ranges, self.seed = ranges, seed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=random_first, multivariate=True, constant_liar=True
            )
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
        self._kept = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(storage=self._kept, direction="maximize", sampler=sampler, pruner=pruner)
        self._open: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, dict[str, float]]:
        """The number and the values of a new proposal."""
        trial = self.study.ask()
        self._open[trial.number] = trial
        values = {name: trial.suggest_float(name, r.low, r.high, log=r.log) for name, r in self.ranges.items()}
        return trial.number, {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items()}

    def goes_on(self, number: int, epoch: int, score: float) -> bool:
        """Whether the trial may continue after an epoch with this score."""
        trial = self._open[number]
        trial.report(score, epoch)
        return not trial.should_prune()

    def tell(self, number: int, scores: Sequence[float], state: str) -> None:
        """Report a trial's result: its `scores` after each epoch, and its state in the ledger.

        A diverged trial counts as the worst of all; a failed one does not count.
        """
        trial = self._open.pop(number)
        for epoch, score in enumerate(scores, 1):  # earlier reports of an epoch are kept
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                trial.report(score, epoch)
                trial.should_prune()
        if state == "finished":
            self.study.tell(trial, max(scores))
        else:
            states, is_cut = optuna.trial.TrialState, state in ("stopped", "diverged")
            self.study.tell(trial, state=states.PRUNED if is_cut else states.FAIL)

    def write_journal(self, path: Path, name: str) -> None:
        """Write the study so far to a journal file of Optuna, in the place of an earlier one."""
        with whole_file(path) as beside:
            journal = optuna.storages.JournalStorage(JournalFileBackend(str(beside)))
            optuna.copy_study(
                from_study_name=self.study.study_name, from_storage=self._kept, to_storage=journal, to_study_name=name
            )


def importances(ranges: Mapping[str, Range], tried: Sequence[tuple[Mapping[str, float], float]], seed: int) -> Any:
    """Field -> share of the score's variance that it explains by itself (fANOVA); empty for fewer than four trials.

    Logarithmic ranges are analysed on their logarithms.
    """
    if len(tried) < 4 or len({score for _, score in tried}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(r.low, r.high, log=r.log) for name, r in ranges.items()
    }
    for values, score in tried:
        inside = {name: min(max(values[name], r.low), r.high) for name, r in ranges.items()}
        study.add_trial(optuna.create_trial(params=inside, distributions=distributions, value=score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found[name]) for name in ranges}
