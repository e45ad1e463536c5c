"""Which fields act on the gradient, and which on the score: declared, and held against random fields and batches."""

import numpy as np
import pytest

from mmpo_train.acting_fields import SCORE_FIELDS, inert_fields, score_of, training_key
from mmpo_train.config import OBJECTIVE_FIELDS, ONLINE_OBJECTIVES, TrialConfig, replace
from mmpo_train.trial.gradient_check import largest_difference, loss_gradient
from mmpo_train.trial.metrics import validate

OFFLINE = [name for name in OBJECTIVE_FIELDS if name not in ONLINE_OBJECTIVES]
OF_SELECTION = {"negatives", "negative_choice"}
"""Fields of the choice among candidates, which is made before the loss."""
ROUNDING = 4e-15
"""Of gradients of the order of 1, at scores of ten nats."""
DRAWN = {
    "beta": lambda random: float(10 ** random.uniform(-2, 0)),
    "r_eps": lambda random: float(random.uniform(0, 1)),
    "gamma_over_beta": lambda random: float(random.uniform(0, 2)),
    "gamma": lambda random: float(random.uniform(0, 10)),
    "sft_weight": lambda random: float(random.uniform(0.01, 1)),
    "label_smoothing": lambda random: float(random.uniform(0.001, 0.4)),
    "desirable_weight": lambda random: float(random.uniform(0.5, 2)),
    "undesirable_weight": lambda random: float(random.uniform(0.5, 2)),
    "pairs_per_group": lambda random: int(random.integers(1, 9)),
    **{
        name: lambda random: bool(random.integers(2))
        for name in ("auxiliary", "in_batch_normalised", "length_normalised", "reference_length_normalised", "entropy")
    },
}


def drawn(objective, random):
    """A config of the objective with random fields."""
    named = [name for name in OBJECTIVE_FIELDS[objective] if name in DRAWN]
    return replace(TrialConfig(), {"objective": objective, **{name: DRAWN[name](random) for name in named}})


def batch(random, completions, prompts=12):
    """Reference log-probabilities and tokens (N, K); a third of the prompts lacks some of K > 2 completions."""
    tokens = random.integers(1, 60, (prompts, completions))
    tokens[random.random(prompts) < 1 / 3, 2:] = 0
    logps = -random.uniform(0.1, 8.0, tokens.shape) * (tokens > 0)
    return logps.astype(np.float32), tokens


@pytest.mark.parametrize("completions", [2, 3, 5])
@pytest.mark.parametrize("objective", OFFLINE)
def test_declared_inert_fields_leave_the_gradient_equal_and_the_others_change_it(objective, completions):
    """40 random configs and batches. The gradient is on log-probabilities and entropies, in float64."""
    if completions > 2 and objective not in ("mmpo", "rnce", "mc_po"):
        pytest.skip("takes pairs")
    random = np.random.default_rng([completions, *objective.encode()])
    moved: dict[str, float] = {}
    acting: set[str] = set()
    for _ in range(40):
        config, (ref_logps, tokens) = drawn(objective, random), batch(random, completions)
        inert = inert_fields(config, completions)
        for name in (name for name in OBJECTIVE_FIELDS[objective] if name in DRAWN):
            other = replace(config, {name: DRAWN[name](random)})
            if other == config or (name == "pairs_per_group" and not config.in_batch_normalised):
                continue
            difference = largest_difference([config, other], ref_logps, tokens)
            if name in inert and name in inert_fields(other, completions):
                assert difference <= ROUNDING, (name, config)
            else:
                acting.add(name)
                moved[name] = max(moved.get(name, 0.0), difference)
    assert {name for name in acting if moved[name] <= 1e-9} == set()


def test_mmpo_as_published_has_the_gradient_minus_one_and_zero():
    """Listing 1 on pairs: -s_w, with normalised rewards and without."""
    random = np.random.default_rng(1)
    ref_logps, tokens = batch(random, 2)
    for fields in ({}, {"beta": 0.5, "r_eps": 0.0}, {"in_batch_normalised": False, "pairs_per_group": 3}):
        config = replace(TrialConfig(), fields)
        policy, _ = loss_gradient(config, ref_logps + 1.0, ref_logps, tokens, np.zeros(tokens.shape))
        assert np.abs(policy - [-1.0, 0.0]).max() <= ROUNDING


@pytest.mark.parametrize("objective", OFFLINE)
def test_fields_that_are_not_of_the_score_change_no_verdict(objective):
    random = np.random.default_rng(2)
    changed = set()
    for _ in range(30):
        config, (ref_logps, tokens) = drawn(objective, random), batch(random, 2, prompts=64)
        logps = (ref_logps + random.normal(0, 8, ref_logps.shape)).astype(np.float32)
        for name in (name for name in OBJECTIVE_FIELDS[objective] if name in DRAWN):
            other = replace(config, {name: DRAWN[name](random)})
            verdicts = [validate(one, logps, ref_logps, tokens).correct for one in (config, other)]
            if verdicts[0] != verdicts[1]:
                changed.add(name)
                assert score_of(config) != score_of(other)
    assert changed == set(SCORE_FIELDS.get(objective, ()))


def test_published_mmpo_is_one_training_whatever_its_score_and_another_where_the_field_acts():
    def key(completions=2, **fields):
        return training_key(replace(TrialConfig(), fields), completions)

    same = [{"beta": 0.01}, {"r_eps": 0.9}, {"pairs_per_group": 2}, {"in_batch_normalised": False}]
    assert {key(**fields) for fields in ({}, *same)} == {key()}
    other = [{"auxiliary": False}, {"entropy": True}, {"length_normalised": True}, {"learning_rate": 1e-4}, {"seed": 7}]
    assert len({key(**fields) for fields in ({}, *other)}) == 1 + len(other)
    for acts in ({"auxiliary": False}, {"entropy": True}):
        assert key(**acts) != key(**acts, beta=0.01)
    assert key(entropy=True) == key(entropy=True, r_eps=0.9)
    assert key(3) != key(3, beta=0.01) != key(3, r_eps=0.9)
    assert key(objective="dpo") != key(objective="dpo", beta=0.01)


def test_mc_po_on_pairs_is_one_training_whatever_it_would_choose():
    def key(completions, **fields):
        return training_key(replace(TrialConfig(), {"objective": "mc_po", **fields}), completions)

    assert key(2) == key(2, negatives=3) == key(2, negative_choice="max")
    assert key(3) != key(3, negative_choice="max")
    assert key(3, negatives=2) == key(3, negatives=2, negative_choice="max")
