"""What to try next and what mattered, by Optuna. The door to optuna."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

REDUCTION = 2
"""Of the trials that reach an epoch, one in so many goes on."""
_DIGITS = 4


@dataclass(frozen=True)
class Range:
    """Where a field's values are looked for."""

    low: float
    high: float
    log: bool = False


class Proposals:
    """TPE over some ranges at once, with asynchronous successive halving (ASHA) over epochs.

    Seeded: asked and told the same in the same order, it proposes the same. Values are rounded to four digits.
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
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self._open: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, dict[str, float]]:
        """A number and the values to try."""
        trial = self.study.ask()
        self._open[trial.number] = trial
        values = {name: trial.suggest_float(name, r.low, r.high, log=r.log) for name, r in self.ranges.items()}
        return trial.number, {name: float(f"{value:.{_DIGITS}g}") for name, value in values.items()}

    def goes_on(self, number: int, epoch: int, score: float) -> bool:
        """Take a score after an epoch; whether the trial is among those that go on."""
        trial = self._open[number]
        trial.report(score, epoch)
        return not trial.should_prune()

    def tell(self, number: int, scores: Sequence[float], state: str) -> None:
        """How a trial ended: `scores` after each of its epochs, state as in the ledger.

        A diverged one counts as the worst of all, one that failed as if it had not been asked for.
        """
        trial = self._open.pop(number)
        for epoch, score in enumerate(scores, 1):  # those reported before stand
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                trial.report(score, epoch)
                trial.should_prune()
        if state == "finished":
            self.study.tell(trial, max(scores))
        elif state in ("stopped", "diverged"):
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)


def importances(ranges: Mapping[str, Range], tried: Sequence[tuple[Mapping[str, float], float]], seed: int) -> Any:
    """Field -> share of the variance of the score that it explains by itself (fANOVA); empty for fewer than four.

    Over the ranges' logarithms where they are logarithmic.
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
