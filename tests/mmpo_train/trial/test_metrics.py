"""Reward accuracy and its companions, three pairs worked by hand for each objective."""

import numpy as np
import pytest

from mmpo_train.config import TrialConfig, replace
from mmpo_train.trial.metrics import mmpo_diagnostics, validate

POLICY = np.array([[-10, -12], [-20, -15], [-8, -8]], dtype=np.float32)
REFERENCE = np.array([[-11, -11], [-18, -16], [-8, -8]], dtype=np.float32)
TOKENS = np.array([[3, 5], [6, 4], [2, 2]])


def validated(**values):
    return validate(replace(TrialConfig(), values), POLICY, REFERENCE, TOKENS)


def softplus(x):
    return np.log1p(np.exp(x))


def test_dpo_worked_by_hand():
    """Log-ratios (1, -1), (-2, 1), (0, 0); times beta 0.1 the margins are 0.2, -0.3 and 0: the tie is not correct."""
    result = validated(objective="dpo", beta=0.1)
    assert result.correct == [1, 0, 0]
    assert result.metrics == pytest.approx(
        {
            "loss": (softplus(-0.2) + softplus(0.3) + softplus(0)) / 3,
            "reward_accuracy": 1 / 3,
            "policy_accuracy": 1 / 3,
            "logratio_accuracy": 1 / 3,
            "reward_margin": -0.1 / 3,
            "chosen_logps": -38 / 3,
            "rejected_logps": -35 / 3,
            "accuracy_chosen_longer": 0.0,
            "accuracy_chosen_shorter": 1.0,
        },
        abs=1e-6,
    )


def test_simpo_on_sums_worked_by_hand():
    """beta 0.1: margins 0.2, -0.5 and 0, from which the loss takes gamma = 0.12; the accuracy does not."""
    result = validated(objective="simpo", beta=0.1, gamma_over_beta=1.2)
    assert result.correct == [1, 0, 0]
    assert result.metrics["reward_margin"] == pytest.approx(-0.1, abs=1e-6)
    expected = (softplus(-0.08) + softplus(0.62) + softplus(0.12)) / 3
    assert result.metrics["loss"] == pytest.approx(expected, abs=1e-6)


def test_simpo_on_means_worked_by_hand():
    """Means (-10/3, -12/5), (-20/6, -15/4), (-4, -4): the first two change sides."""
    result = validated(objective="simpo", beta=1.0, length_normalised=True)
    assert result.correct == [0, 1, 0]
    assert result.metrics["reward_margin"] == pytest.approx((-10 / 3 + 12 / 5 - 20 / 6 + 15 / 4) / 3, abs=1e-6)


def test_mmpo_worked_by_hand():
    """beta 0.1, r_eps 0.6, groups of two pairs in dataset order; the third pair is a group of its own.

    Group 1: R = (-0.5, -1.0), (-1.2, -1.5), normalised (1, 0.5), (0.3, 0): s = (-9, -11.5), (-19.7, -15).
    Group 2: R = (-0.2, -0.7), normalised (1, 0): s = (-7, -8), so the tie in logps is decided by r_eps.
    Margins 2.5, -4.7, 1; losses 9, 19.7, 7 (the chosen scores with the other sign).
    Were r_eps 0.1: group 1 R = (-1, -1), (-1.7, -1.5), normalised (1, 1), (0, 2/7); group 2 (1, 1). So r_eps
    shifts the differences by 0.5 - 0, 0.3 + 2/7 and 1 - 0.
    """
    result = validated(objective="mmpo", beta=0.1, r_eps=0.6, pairs_per_group=2)
    assert result.correct == [1, 0, 1]
    margins = np.array([2.5, -4.7, 1.0])
    expected = {
        "loss": (9 + 19.7 + 7) / 3,
        "reward_accuracy": 2 / 3,
        "policy_accuracy": 1 / 3,
        "reward_margin": margins.mean(),
        "rejected_weight": (1 / (1 + np.exp(margins))).mean(),
        "saturated_share": 0.0,
        "r_eps_shift": (0.5 + 0.3 + 2 / 7 + 1.0) / 3,
        "accuracy_chosen_longer": 0.0,
        "accuracy_chosen_shorter": 1.0,
    }
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_mmpo_groups_are_those_of_the_config():
    """In one group of three the third pair's rewards are R = (-0.2, -0.7) between -1.5 and -0.2: 1 and 8/13."""
    result = validated(objective="mmpo", beta=0.1, r_eps=0.6, pairs_per_group=8)
    assert result.metrics["loss"] == pytest.approx((10 - 10 / 13 + 20 - 3 / 13 + 8 - 1) / 3, abs=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_only_mmpo_has_mmpo_diagnostics(objective):
    assert not {"rejected_weight", "saturated_share", "r_eps_shift"} & set(validated(objective=objective).metrics)


def test_r_eps_shift_is_zero_at_a_tenth():
    """Where both completions have the same target reward."""
    assert validated(objective="mmpo", r_eps=0.1).metrics["r_eps_shift"] == 0.0


def test_diagnostics_worked_by_hand():
    """sigmoid of 0, -6, 6, -5; two of four are beyond 5 nats, 5 itself is not."""
    diagnostics = mmpo_diagnostics(np.array([0.0, 6.0, -6.0, 5.0]))
    assert diagnostics["rejected_weight"] == pytest.approx((0.5 + 0.00247262 + 0.99752738 + 0.00669285) / 4, abs=1e-7)
    assert diagnostics["saturated_share"] == 0.5


def test_diagnostics_of_differences_of_thousands_of_nats_are_finite(recwarn):
    diagnostics = mmpo_diagnostics(np.array([3000.0, -3000.0]))
    assert diagnostics == {"rejected_weight": pytest.approx(0.5), "saturated_share": 1.0}
    assert not recwarn.list


def test_accuracy_by_length_is_left_out_where_no_pair_differs_that_way():
    tokens = np.array([[3, 5], [4, 6], [2, 2]])
    metrics = validate(replace(TrialConfig(), {"objective": "dpo"}), POLICY, REFERENCE, tokens).metrics
    assert "accuracy_chosen_longer" not in metrics
    assert metrics["accuracy_chosen_shorter"] == 0.5
