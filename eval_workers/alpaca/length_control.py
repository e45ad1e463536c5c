"""Win rate and length-controlled win rate of AlpacaEval 2. The door to scikit-learn.

P(win of instruction i) = sigmoid(a tanh(d_i / sd(d)) + b gamma_i + c), d = the baseline's length minus the model's,
gamma = the instruction's difficulty; the length-controlled rate is mean_i sigmoid(b gamma_i + c) (Dubois et al. 2024;
alpaca_eval 0.6.6, metrics/glm_winrate.py). The library finds gamma by the row's number, so that a missing judgement
shifts all that follow; here it is found by the instruction.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mmpo_train.errors import InputError

Form = Literal["v1", "noreg", "minimal"]

_GAMED_WEIGHT = 0.1  # a regularisation of 0.2, shared by two gamed baselines
_FOLDS = 5
_SEPARATED = 0.01


@dataclass(frozen=True)
class Judged:
    """A judge's preference between a model's answer and the baseline's."""

    instruction: str
    won: float
    """How far the model's answer is preferred to the baseline's, 0 to 1."""
    length: int
    """Length of the model's answer in characters."""
    baseline_length: int

    def __post_init__(self) -> None:
        if not 0 <= self.won <= 1:
            raise ValueError(f"won is {self.won}, expected 0 to 1")


class Gamed(NamedTuple):
    """A gamed baseline (asked to answer at length, or briefly) judged against the plain baseline."""

    won: float
    """How far the gamed answer is preferred, 0 to 1."""
    length_difference: float
    """Plain minus gamed, in standard deviations."""
    difficulty: float


class WinRate(NamedTuple):
    rate: float
    standard_error: float
    """Sample standard error of the mean; nan for a single judgement."""


@dataclass(frozen=True, kw_only=True)
class LengthControlled:
    """A fit, and the win rate that it predicts for answers as long as the baseline's."""

    form: Form
    """`v1` is the published form, `noreg` lacks the gamed rows, `minimal` also the difficulties (the library's names).
    Only v1 on the 805 instructions is AlpacaEval's number."""
    rate: float
    standard_error: float
    """Linearised error (see `_standard_error`) for a new sample of instructions."""
    spread_error: float
    """The library's lc_standard_error: that of the mean of sigmoid(b gamma_i + c), as if the fit were exact. It leaves
    out most of the uncertainty; 0 in the minimal form."""
    length_weight: float
    difficulty_weight: float
    """The weight b; 0 without difficulties."""
    constant: float
    inverse_penalty: float
    """scikit-learn's C, chosen by cross-validation."""


class NoLengthControl(Exception):
    """Length and quality cannot be separated with these judgements; the message is the reason, for the report."""


def win_rate(judged: Sequence[Judged]) -> WinRate:
    """Mean of what was won. Raises ValueError without judgements."""
    if not judged:
        raise ValueError("no judgements: there is no win rate")
    return _mean_and_error(np.array([one.won for one in judged]))


def length_controlled_win_rate(
    judged: Sequence[Judged], difficulty: Mapping[str, float] | None = None, gamed: Sequence[Gamed] | None = None
) -> LengthControlled:
    """The fit for one model, with scikit-learn configured as in the library, and its win rate.

    With `difficulty` (by instruction) and `gamed` it is the published form. Without the gamed rows, or without both,
    the rest is fitted and has another name: other prompts have no length-gamed baseline.

    Raises NoLengthControl if the fit would mean nothing (see `_check`), InputError if a judged instruction has no
    difficulty.
    """
    if gamed and difficulty is None:
        raise ValueError("gamed rows need difficulties, since theirs are on the same scale")
    form: Form = "v1" if gamed else "noreg" if difficulty is not None else "minimal"
    differences = np.array([one.baseline_length - one.length for one in judged], dtype=float)
    wins = np.array([one.won for one in judged])
    _check(differences, wins, form)
    deviation = differences.std(ddof=1)
    # Equal lengths throughout: nothing to control for, and a column of zeros gets no weight.
    features = np.zeros((len(judged), 3))
    features[:, 0] = np.tanh(differences / (deviation or 1.0))
    features[:, 1] = _difficulties(judged, difficulty)
    features[:, 2] = 1
    others = np.array(gamed or [], dtype=float).reshape(-1, 3)
    gamed_features = np.column_stack([np.tanh(others[:, 1]), others[:, 2], np.zeros(len(others))])
    # The gamed rows first, as in the library: the folds depend on the order.
    every_row = np.vstack([gamed_features, features])
    weights = np.repeat([_GAMED_WEIGHT, 1.0], [len(others), len(judged)])
    used = [0, 1, 2] if difficulty is not None else [0, 2]
    coefficients = np.zeros(3)
    coefficients[used], inverse_penalty = _fit(every_row[:, used], np.concatenate([others[:, 0], wins]), weights)
    fitted = _sigmoid(features @ coefficients)
    if form != "v1" and (fitted * (1 - fitted)).max() < _SEPARATED:
        raise NoLengthControl("length separates all wins from all losses, so nothing is known about equal lengths")
    equal_length = features * [0, 1, 1]
    spread = _mean_and_error(_sigmoid(equal_length @ coefficients))
    return LengthControlled(
        form=form,
        rate=spread.rate,
        standard_error=_standard_error(coefficients, every_row, weights, features, wins),
        spread_error=spread.standard_error,
        length_weight=float(coefficients[0]),
        difficulty_weight=float(coefficients[1]),
        constant=float(coefficients[2]),
        inverse_penalty=inverse_penalty,
    )


def _check(differences: np.ndarray, wins: np.ndarray, form: Form) -> None:
    """Raises NoLengthControl if there are too few judgements, if (without gamed rows) nearly all go one way, or if all
    answers differ from the baseline's by the same number of characters other than 0."""
    if len(wins) < 2:
        raise NoLengthControl(f"a fit needs at least 2 judgements, got {len(wins)}")
    if form != "v1" and min(wins.sum(), (1 - wins).sum()) < _FOLDS:
        # A fold without a win or a loss: liblinear then gives 0.5 for everything, or diverges.
        raise NoLengthControl(
            f"{wins.sum():.4g} wins in {len(wins)} judgements are too one-sided for a fit, which needs {_FOLDS} of "
            "wins and of losses each"
        )
    if not differences.std() and differences[0]:
        raise NoLengthControl(
            f"every answer is {abs(differences[0]):.0f} characters {'longer' if differences[0] < 0 else 'shorter'} "
            "than the baseline's, so the effects of length and quality cannot be separated"
        )


def _difficulties(judged: Sequence[Judged], difficulty: Mapping[str, float] | None) -> np.ndarray:
    if difficulty is None:
        return np.zeros(len(judged))
    unknown = [one.instruction for one in judged if one.instruction not in difficulty]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(judged)} judged instructions have no difficulty (first: {unknown[0][:80]!r}); "
            "give the difficulties of these instructions, or give none"
        )
    return np.array([difficulty[one.instruction] for one in judged])


def _fit(features: np.ndarray, wins: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (F,) of an L1 logistic regression on soft labels, and the C with the best cross-validated log loss.
    Each row occurs twice, as a win with weight p and as a loss with weight 1 - p, both in one fold."""
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    shares, twice = np.concatenate([wins, 1 - wins]), np.tile(weights, 2)
    with config_context(enable_metadata_routing=True):
        scorer: Any = make_scorer(_soft_log_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            Cs=10,
            cv=GroupKFold(_FOLDS),
            solver="liblinear",
            l1_ratios=(1.0,),
            fit_intercept=False,
            scoring=scorer.set_score_request(wins=True, weights=True),
            random_state=123,
            use_legacy_attributes=False,
        )
        model.set_fit_request(sample_weight=True)
        model.fit(
            np.vstack([features, features]),
            np.repeat([1, 0], len(wins)),
            sample_weight=shares * twice,
            groups=np.tile(np.arange(len(wins)), 2),
            wins=np.tile(wins, 2),
            weights=twice,
        )
    return model.coef_[0], float(model.C_)


def _soft_log_loss(copies: np.ndarray, predicted: np.ndarray, wins: np.ndarray, weights: np.ndarray) -> float:
    """Weighted log loss of predicted against true win probabilities; `copies` says which copy of its row each is."""
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
    return -float(np.mean(weights * (wins * np.log(predicted) + (1 - wins) * np.log(1 - predicted))))


def _standard_error(
    coefficients: np.ndarray, every_row: np.ndarray, weights: np.ndarray, features: np.ndarray, wins: np.ndarray
) -> float:
    """Standard error of the length-controlled rate, from the influence of each judged instruction (delta method).

    psi_i = sigmoid(b gamma_i + c) - rate + g . A^-1 x_i (y_i - p_i), with A the information of all rows and g the
    rate's gradient; the error is sd(psi) / sqrt(n). The gamed rows are held fixed, and the L1 penalty is left out.
    """
    equal_length = features * [0, 1, 1]
    rates = _sigmoid(equal_length @ coefficients)
    gradient = (rates * (1 - rates)) @ equal_length / len(features)
    fitted = _sigmoid(every_row @ coefficients)
    information = (every_row * (weights * fitted * (1 - fitted))[:, None]).T @ every_row / len(features)
    residuals = features * (wins - _sigmoid(features @ coefficients))[:, None]
    # Pseudo-inverse: the column of a feature that is not there is zero.
    influence = rates - rates.mean() + residuals @ np.linalg.pinv(information, hermitian=True) @ gradient
    return _mean_and_error(influence).standard_error


def _mean_and_error(values: np.ndarray) -> WinRate:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return WinRate(float(values.mean()), float(error))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
