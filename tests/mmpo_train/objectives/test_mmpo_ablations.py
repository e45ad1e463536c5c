"""MMPO's ablations (Section 5): each worked by hand, in every combination, for pairs and for more completions."""

import itertools
import math

import numpy as np
import pytest
import torch

from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import read_table
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model.batches import group_rewards
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.reference import read_reference
from mmpo_train.model.scoring import ScoredTable
from mmpo_train.objectives import Batch, build_objective
from mmpo_train.objectives.mmpo import mean_entropy, mmpo_loss, normalised_rewards, unnormalised_rewards
from mmpo_train.trial.metrics import validate
from mmpo_train.trial.preferences import accumulate
from tests.support.models import plain_sums

SWITCHES = ("auxiliary", "in_batch_normalised", "length_normalised", "entropy")
COMBINATIONS = [dict(zip(SWITCHES, some)) for some in itertools.product((True, False), repeat=4)]
REFERENCE = torch.tensor([[-10.0, -15.0], [-20.0, -12.0]])
POLICY = torch.tensor([[-2.0, -3.0], [-5.0, -5.0]])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def mmpo(**fields):
    return build_objective(replace(TrialConfig(), fields))


def batch_of_pairs(objective, policy=POLICY, tokens=((1, 1), (1, 1)), entropies=None):
    present = torch.ones_like(REFERENCE, dtype=torch.bool)
    rewards = objective.rewards(REFERENCE, present)
    return Batch(policy, REFERENCE, rewards, torch.tensor(tokens), present, entropies=entropies)


def test_without_the_auxiliary_term_the_loss_is_the_log_sum_exp_worked_by_hand():
    """The pairs of test_objectives: s = (-1, -3) and (-5, -4.7).

    Losses 1 - log(1 + e^-2) = 0.873072 and 4.7 - log(1 + e^-0.3) = 4.145645; with the term they were 1 and 5.
    """
    objective = mmpo(auxiliary=False)
    losses, scores = objective.loss(batch_of_pairs(objective))
    torch.testing.assert_close(scores, torch.tensor([[-1.0, -3.0], [-5.0, -4.7]]), atol=3e-6, rtol=0)
    assert losses.tolist() == pytest.approx([0.873072, 4.145645], abs=3e-6)


@pytest.mark.parametrize("difference", [-30.0, -2.0, 0.0, 0.7, 30.0])
def test_without_the_auxiliary_term_the_weights_of_theorem_3_2_hold(difference):
    """gradient = -(sigmoid(s_w - s_l) grad s_w + sigmoid(s_l - s_w) grad s_l): both completions are raised."""
    policy = torch.tensor([[-50.0, -50.0 - difference]], dtype=torch.float64, requires_grad=True)
    losses, _ = mmpo_loss(policy, torch.zeros(1, 2), auxiliary=False)
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert gradient[0].tolist() == pytest.approx([-sigmoid(difference), -sigmoid(-difference)], abs=1e-12)


def test_without_the_auxiliary_term_three_completions_weigh_as_their_softmax():
    """Scores (0, -log 2, -log 4), the fourth absent: exp (1, 1/2, 1/4), so -log 1.75 and weights 4/7, 2/7, 1/7."""
    policy = torch.tensor([[0.0, -math.log(2), -math.log(4), math.nan]], requires_grad=True)
    present = torch.tensor([[True, True, True, False]])
    losses, _ = mmpo_loss(policy, torch.zeros(1, 4), present, auxiliary=False)
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert losses.item() == pytest.approx(-math.log(1.75))
    assert gradient[0].tolist() == pytest.approx([-4 / 7, -2 / 7, -1 / 7, 0], abs=1e-6)


def test_unnormalised_rewards_worked_by_hand():
    """beta 0.1, r_eps 0.6: R = 0.6 - 1, 0.1 - 1.5 and 0.6 - 2, 0.1 - 1.2; s = (-2.4, -4.4) and (-6.4, -6.1).

    The loss is minus the chosen score; without the auxiliary term 2.4 - log(1 + e^-2) and 6.1 - log(1 + e^-0.3).
    """
    expected = torch.tensor([[-0.4, -1.4], [-1.4, -1.1]])
    torch.testing.assert_close(unnormalised_rewards(REFERENCE, beta=0.1, r_eps=0.6), expected)
    for auxiliary, wanted in ((True, [2.4, 6.4]), (False, [2.4 - math.log1p(math.exp(-2)), 5.545645])):
        objective = mmpo(in_batch_normalised=False, auxiliary=auxiliary)
        losses, scores = objective.loss(batch_of_pairs(objective))
        torch.testing.assert_close(scores, torch.tensor([[-2.4, -4.4], [-6.4, -6.1]]))
        assert losses.tolist() == pytest.approx(wanted, abs=2e-6)


def test_unnormalised_rewards_do_not_depend_on_the_group():
    random = np.random.default_rng(0)
    reference = random.uniform(-300, -20, (11, 3)).astype(np.float32)
    present = np.ones((11, 3), dtype=bool)
    present[::2, 2] = False
    rewards = mmpo(in_batch_normalised=False, beta=0.5).rewards
    alone, together = (group_rewards(reference, present, random.permutation(11), size, rewards) for size in (1, 8))
    np.testing.assert_array_equal(alone, together)
    expected = np.where(present, [0.6, 0.1, 0.1] + 0.5 * reference, 0)
    np.testing.assert_allclose(together, expected, rtol=1e-6)


def test_rewards_of_any_kind_change_no_gradient_of_pairs_with_the_auxiliary_term():
    """The loss is -s_w: with the term as published, in-batch normalisation acts on the scores alone."""
    for objective in (mmpo(), mmpo(in_batch_normalised=False)):
        policy = POLICY.clone().requires_grad_()
        losses, _ = objective.loss(batch_of_pairs(objective, policy))
        [gradient] = torch.autograd.grad(losses.sum(), policy)
        torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.0]] * 2), atol=1e-6, rtol=0)


def test_length_normalisation_worked_by_hand():
    """Sums (-20, -30) over 4 and 10 tokens, rewards (0.5, 0.25): s = (-4.5, -2.75), whose difference is -1.75.

    The loss is 4.5, its gradient -1/4 on the chosen sum; without the auxiliary term 2.75 - log(1 + e^-1.75), with
    gradients -sigmoid(-1.75) / 4 and -sigmoid(1.75) / 10.
    """
    tokens, rewards = torch.tensor([[4, 10]]), torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    expected = {
        True: (4.5, [-0.25, 0.0]),
        False: (2.75 - math.log1p(math.exp(-1.75)), [-sigmoid(-1.75) / 4, -sigmoid(1.75) / 10]),
    }
    for auxiliary, (loss, weights) in expected.items():
        policy = torch.tensor([[-20.0, -30.0]], dtype=torch.float64, requires_grad=True)
        losses, scores = mmpo_loss(policy, rewards, None, tokens, auxiliary)
        [gradient] = torch.autograd.grad(losses.sum(), policy)
        assert scores[0].tolist() == pytest.approx([-4.5, -2.75])
        assert losses.item() == pytest.approx(loss, abs=1e-12)
        assert gradient[0].tolist() == pytest.approx(weights, abs=1e-12)


def test_length_normalisation_leaves_the_rewards_on_the_references_sums():
    present = torch.ones_like(REFERENCE, dtype=torch.bool)
    torch.testing.assert_close(
        mmpo(length_normalised=True).rewards(REFERENCE, present), normalised_rewards(REFERENCE, 0.1, 0.6)
    )


def test_entropy_is_taken_off_the_loss_worked_by_hand():
    """beta 0.5, entropies (3, 5) and (8, 1): means 4 and 4.5, so 2 and 2.25 less; each entropy's gradient is -0.25."""
    objective, plain = mmpo(entropy=True, beta=0.5), mmpo(beta=0.5)
    entropies = torch.tensor([[3.0, 5.0], [8.0, 1.0]], requires_grad=True)
    losses, scores = objective.loss(batch_of_pairs(objective, entropies=entropies))
    without, same = plain.loss(batch_of_pairs(plain))
    torch.testing.assert_close(without - losses, torch.tensor([2.0, 2.25]))
    torch.testing.assert_close(scores, same)
    [gradient] = torch.autograd.grad(losses.sum(), entropies)
    assert gradient.flatten().tolist() == [-0.25] * 4
    assert objective.entropies and not plain.entropies


def test_mean_entropy_is_over_the_completions_there_are():
    entropies = torch.tensor([[3.0, 5.0, 10.0], [3.0, math.nan, math.nan]], requires_grad=True)
    present = torch.tensor([[True, True, True], [True, False, False]])
    means = mean_entropy(entropies, present)
    [gradient] = torch.autograd.grad(means.sum(), entropies)
    assert means.tolist() == [6.0, 3.0]
    assert gradient.flatten().tolist() == pytest.approx([1 / 3] * 3 + [1.0, 0.0, 0.0])


@pytest.mark.parametrize("fields", COMBINATIONS)
@pytest.mark.parametrize("filler", [0.0, 1e30, -math.inf, math.nan])
def test_no_ablation_depends_on_what_stands_where_a_completion_is_absent(fields, filler):
    """Each row of a group of three gives the loss that it gives without the absent columns."""
    random = torch.Generator().manual_seed(2)
    reference, policy, entropies = (torch.randn(3, 3, generator=random) for _ in range(3))
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    tokens = torch.tensor([[3, 1, 4], [2, 5, 0], [6, 0, 0]])
    objective = mmpo(**fields)
    holed = [values.masked_fill(~present, filler).requires_grad_() for values in (policy, entropies)]
    rewards = objective.rewards(reference.masked_fill(~present, filler), present)
    losses, scores = objective.loss(Batch(holed[0], reference, rewards, tokens, present, entropies=holed[1]))
    losses.sum().backward()
    assert rewards[~present].tolist() == scores[~present].tolist() == [0.0] * 3
    for row in range(3):
        own = slice(row, row + 1), slice(0, 3 - row)
        parts = (values[own] for values in (policy, reference, rewards, tokens, present))
        alone, _ = objective.loss(Batch(*parts, entropies=entropies[own]))
        assert losses[row].item() == pytest.approx(alone.item(), rel=1e-6)
    for values in holed if fields["entropy"] else holed[:1]:
        assert torch.isfinite(values.grad).all() and values.grad[~present].tolist() == [0.0] * 3


@pytest.mark.parametrize("fields", COMBINATIONS)
def test_extreme_inputs_give_finite_losses_and_gradients(fields):
    policy = torch.tensor([[-5000.0, -1.0], [0.0, -3000.0]], requires_grad=True)
    objective = mmpo(**fields)
    rewards = objective.rewards(torch.tensor([[-1.0, -5000.0], [-3000.0, -1e-6]]), torch.ones(2, 2, dtype=torch.bool))
    tokens, present = torch.tensor([[512, 1], [1, 512]]), torch.ones(2, 2, dtype=torch.bool)
    losses, scores = objective.loss(Batch(policy, rewards, rewards, tokens, present, entropies=torch.ones(2, 2)))
    losses.sum().backward()
    for values in (losses, scores, policy.grad):
        assert torch.isfinite(values).all()


def test_validation_without_in_batch_normalisation_worked_by_hand():
    """beta 0.1, r_eps 0.6: R = (-0.4, -1.4), (-1.4, -1.1), s = (-2.4, -4.4), (-6.4, -6.1), margins 2 and -0.3.

    r_eps shifts each difference by 0.6 - 0.1. Validation has no entropies: its loss is minus the chosen score.
    """
    config = replace(TrialConfig(), {"in_batch_normalised": False, "entropy": True})
    result = validate(config, POLICY.numpy(), REFERENCE.numpy(), np.ones((2, 2), dtype=int))
    expected = {"loss": 4.4, "reward_accuracy": 0.5, "reward_margin": 0.85, "r_eps_shift": 0.5}
    expected["rejected_weight"] = (sigmoid(-2.0) + sigmoid(0.3)) / 2
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_validation_with_length_normalisation_compares_means():
    """Sums (-2, -3) and (-5, -5) over 1 and 4, 5 and 2 tokens, rewards (1, 0) and (0, 0.3).

    s = (-1, -0.75) and (-1, -2.2): both verdicts change.
    """
    config = replace(TrialConfig(), {"length_normalised": True})
    result = validate(config, POLICY.numpy(), REFERENCE.numpy(), np.array([[1, 4], [5, 2]]))
    assert result.correct == [0, 1]
    assert result.metrics["reward_margin"] == pytest.approx((-0.25 + 1.2) / 2, abs=1e-5)


@pytest.mark.parametrize("fields", [COMBINATIONS[0], COMBINATIONS[10], COMBINATIONS[12]], ids=str)
def test_a_step_of_many_completions_is_the_same_in_every_layout_and_pass_size(ranked_prepared, fields):
    """Loss and gradient of 7 prompts with three to six completions against the loss written out, one float a time."""
    places = ranked_prepared.places
    config = replace(ranked_prepared.config, fields | {"objective": "mmpo", "beta": 0.3})
    everything = ScoredTable(read_table(places.tokens, "train"), read_reference(places.reference, "train"))
    rows = np.arange(7)
    step = everything.take(rows, np.where(everything.table.completion_tokens[rows] > 0, np.arange(6), -1))
    objective = build_objective(config)
    constants = group_rewards(step.ref_logps, step.table.completion_tokens > 0, rows, 8, objective.rewards)

    model = load_model(places.model).eval()
    expected = 0.0
    for prompt in rows:
        sums = plain_sums(model, step.table, prompt)
        scores = []
        for column, (logps, _, _) in enumerate(sums):
            tokens = len(step.table.completions[prompt][column]) if config.length_normalised else 1
            scores.append(logps / tokens + float(constants[prompt, column]))
        loss = -torch.stack(scores).logsumexp(0)
        if config.auxiliary:
            loss = loss + sum(torch.log1p(torch.exp(other - scores[0])) for other in scores[1:]) / (len(scores) - 1)
        if config.entropy:
            entropies = [entropy + prefixes - prefixes.detach() for _, entropy, prefixes in sums]
            loss = loss - 0.3 * sum(entropies) / len(entropies)
        expected = expected + loss
    (expected / len(rows)).backward()
    gradients = [parameter.grad for parameter in model.parameters()]

    for layout, tokens in itertools.product(("padded", "packed", "shared"), (1, 300)):
        engine = TorchEngine(CompletionLogps(load_model(places.model)), config)
        sums = accumulate(engine, objective, step, constants, 0.0, Passes(layout, tokens))
        assert sums["loss"] == pytest.approx(expected.item(), rel=1e-5)
        for parameter, wanted in zip(engine.masters.parameters, gradients, strict=True):
            assert (parameter.grad.cpu() - wanted).norm() < 1e-4 * wanted.norm()


def test_the_authors_length_normalisation_divides_the_reference_too():
    """beta 0.5, r_eps 0.6, unnormalised: R_w = 0.6 + 0.5 (-10 / 2), R_l = 0.1 + 0.5 (-15 / 5); s = logp / tokens + R,
    so that s_w = -1 - 1.9 and s_l = -0.6 - 1.4: the second wins. With the reference's sums s_w = -5.4 > s_l = -8.0."""
    fields = {"beta": 0.5, "in_batch_normalised": False, "length_normalised": True}
    policy, reference = np.array([[-2.0, -3.0]], np.float32), np.array([[-10.0, -15.0]], np.float32)
    tokens = np.array([[2, 5]])
    for divides, margin in ((True, -2.9 - -2.0), (False, -5.4 - -8.0)):
        config = replace(TrialConfig(), {**fields, "reference_length_normalised": divides})
        found = validate(config, policy, reference, tokens)
        assert found.metrics["reward_margin"] == pytest.approx(margin, abs=1e-5)
        assert found.correct == [int(margin > 0)]
