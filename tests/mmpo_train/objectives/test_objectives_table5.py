"""The losses of the MC-PO paper's Table 5 and of the publications behind it: against each formula in plain Python,
finite differences, hand-worked numbers, and TRL's own code."""

import json
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from mmpo_train.objectives.exo import exo_loss, exo_original_loss
from mmpo_train.objectives.pairwise import cpo_loss, cpo_original_loss, dpo_loss, rpo_loss, rpo_trl_loss, simpo_loss
from mmpo_train.objectives.pointwise import (
    apo_down_loss,
    apo_loss,
    apo_zero_loss,
    bco_loss,
    bco_original_loss,
    kto_loss,
    kto_original_loss,
    nca_loss,
    sppo_loss,
)
from mmpo_train.objectives.ranking import ranking_nce_loss
from mmpo_train.objectives.reference_point import RunningMean, kl_reference_point

BETA, GAMMA, LAMBDA, DELTA, EPSILON, DESIRABLE, UNDESIRABLE = 0.3, 1.5, 0.1, 0.4, 0.02, 1.3, 0.7
TOKENS = torch.tensor([[3, 4], [9, 2], [5, 6], [7, 7]])


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# Each loss as (policy, reference, tokens) -> (losses, scores), its formula of one pair in Python floats, which is
# given log-ratios, chosen log-probability and token counts, and its score of one completion.
LOSSES = {
    "dpo": lambda p, r, t: dpo_loss(p, r, BETA),
    "rpo": lambda p, r, t: rpo_loss(p, r, BETA, LAMBDA),
    "rpo_trl": lambda p, r, t: rpo_trl_loss(p, r, t, BETA, LAMBDA),
    "exo": lambda p, r, t: exo_loss(p, r, BETA),
    "exo_original": lambda p, r, t: exo_original_loss(p, r, BETA, EPSILON),
    "simpo": lambda p, r, t: simpo_loss(p, t, BETA, GAMMA / BETA, length_normalised=True),
    "cpo": lambda p, r, t: cpo_loss(p, t, BETA, GAMMA, LAMBDA),
    "cpo_original": lambda p, r, t: cpo_original_loss(p, t, BETA, LAMBDA),
    "bco": lambda p, r, t: bco_loss(p, r, BETA, DELTA),
    "bco_original": lambda p, r, t: bco_original_loss(p, r, BETA, DELTA),
    "kto": lambda p, r, t: kto_loss(p, r, BETA, DELTA),
    "kto_original": lambda p, r, t: kto_original_loss(p, r, BETA, DELTA, DESIRABLE, UNDESIRABLE),
    "apo": lambda p, r, t: apo_loss(p, r, BETA),
    "apo_zero": lambda p, r, t: apo_zero_loss(p, r, BETA),
    "apo_down": lambda p, r, t: apo_down_loss(p, r, BETA),
    "sppo": lambda p, r, t: sppo_loss(p, r, BETA),
    "nca": lambda p, r, t: nca_loss(p, r, BETA),
    "mc_po": lambda p, r, t: ranking_nce_loss(p, r, BETA),
}


def formula(name, p0, p1, r0, r1, n0, n1):
    """One pair's loss, written down from Table 5 or, for the others, from the publication."""
    b0, b1 = BETA * (p0 - r0), BETA * (p1 - r1)
    mean0, mean1 = BETA / n0 * p0, BETA / n1 * p1
    if name == "dpo":
        return -log_sigmoid(b0 - b1)
    if name == "rpo":
        return -log_sigmoid(b0 - b1) - LAMBDA * (p0 - r0)
    if name == "rpo_trl":
        return -log_sigmoid(b0 - b1) - LAMBDA * p0 / n0
    if name == "exo":
        return -sigmoid(b0) * log_sigmoid(b0) + sigmoid(b0) * log_sigmoid(-b0)
    if name == "exo_original":
        q = sigmoid(b0 - b1)
        return q * math.log(q / (1 - EPSILON)) + (1 - q) * math.log((1 - q) / EPSILON)
    if name == "simpo":
        return -log_sigmoid(mean0 - mean1 - GAMMA)
    if name == "cpo":
        return -log_sigmoid(mean0 - mean1 - GAMMA) - LAMBDA * mean0
    if name == "cpo_original":
        return -log_sigmoid(BETA * p0 - BETA * p1) - LAMBDA * p0 / n0
    if name in ("bco", "kto"):
        return -log_sigmoid(b0 - DELTA) - log_sigmoid(-b1 - DELTA)
    if name == "bco_original":
        return -log_sigmoid(b0 - DELTA) - log_sigmoid(-(b1 - DELTA))
    if name == "kto_original":
        return DESIRABLE * (1 - sigmoid(b0 - DELTA)) + UNDESIRABLE * (1 - sigmoid(DELTA - b1))
    if name == "apo":
        return -log_sigmoid(b0) + log_sigmoid(b1)
    if name == "apo_zero":
        return 1 - sigmoid(b0) + sigmoid(b1)
    if name == "apo_down":
        return sigmoid(b0) + 1 - sigmoid(b0 - b1)
    if name == "sppo":
        return (p0 - r0 - 0.5 / BETA) ** 2 + (p1 - r1 + 0.5 / BETA) ** 2
    if name == "nca":
        return -log_sigmoid(b0) - 0.5 * log_sigmoid(-b0) - 0.5 * log_sigmoid(-b1)
    assert name == "mc_po"
    return -b0 + math.log(math.exp(b0) + math.exp(b1))


def four_pairs():
    """Policy and reference sums (4, 2), float64: log-ratios of a few nats of either sign."""
    random = torch.Generator().manual_seed(4)
    reference = -30 * torch.rand(4, 2, dtype=torch.float64, generator=random) - 10
    return reference + 4 * torch.randn(4, 2, dtype=torch.float64, generator=random), reference


def rows_of(*tensors):
    return [[value for tensor in tensors for value in tensor[row].tolist()] for row in range(len(tensors[0]))]


@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_the_formula_in_plain_python(name):
    policy, reference = four_pairs()
    losses, _ = LOSSES[name](policy, reference, TOKENS)
    expected = [formula(name, *row) for row in rows_of(policy, reference, TOKENS)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_finite_differences(name):
    """Of the formula in plain Python, so that a detached term of the loss would be noticed."""
    policy, reference = four_pairs()
    policy.requires_grad_()
    [gradient] = torch.autograd.grad(LOSSES[name](policy, reference, TOKENS)[0].sum(), policy)
    for row, values in enumerate(rows_of(policy.detach(), reference, TOKENS)):
        for column in (0, 1):
            above, below = list(values), list(values)
            above[column] += 1e-5
            below[column] -= 1e-5
            slope = (formula(name, *above) - formula(name, *below)) / 2e-5
            assert gradient[row, column].item() == pytest.approx(slope, abs=2e-8, rel=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_scores_are_the_objectives_own_and_carry_no_gradient(name):
    policy, reference = four_pairs()
    losses, scores = LOSSES[name](policy.requires_grad_(), reference, TOKENS)
    if name in ("simpo", "cpo"):
        expected = BETA * policy.detach() / TOKENS
    elif name == "cpo_original":
        expected = BETA * policy.detach()
    else:
        expected = BETA * (policy.detach() - reference)
    torch.testing.assert_close(scores, expected)
    assert losses.shape == (4,) and losses.requires_grad and not scores.requires_grad


@pytest.mark.parametrize(
    ("table", "publication"),
    [
        ("rpo", "rpo_trl"),
        ("exo", "exo_original"),
        ("cpo", "cpo_original"),
        ("bco", "bco_original"),
        ("kto", "kto_original"),
        ("apo", "apo_zero"),
        ("apo", "apo_down"),
    ],
)
def test_table_and_publication_train_differently(table, publication):
    """Gradients point elsewhere, so that no learning rate makes one of the other."""
    policy, reference = four_pairs()
    policy.requires_grad_()
    gradients = []
    for name in (table, publication):
        [gradient] = torch.autograd.grad(LOSSES[name](policy, reference, TOKENS)[0].sum(), policy)
        gradients.append(gradient.flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) < 0.995


EXTREMES = {
    "ratios of 10000 nats": ([[-10_000.0, -1.0], [-1.0, -10_000.0]], [[-1.0, -10_000.0], [-10_000.0, -1.0]]),
    "both ratios -10000": ([[-10_000.0, -10_000.0]], [[-1e-3, -1e-3]]),
    "both ratios 10000": ([[-1e-3, -1e-3]], [[-10_000.0, -10_000.0]]),
    "equal completions": ([[-10.0, -10.0]], [[-12.0, -12.0]]),
    "an untrained policy": ([[-10.0, -20.0]], [[-10.0, -20.0]]),
    "zeros": ([[0.0, 0.0]], [[0.0, 0.0]]),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_inputs_give_finite_losses_and_gradients_in_float32(name, extreme):
    policy, reference = (torch.tensor(values) for values in EXTREMES[extreme])
    policy.requires_grad_()
    losses, scores = LOSSES[name](policy, reference, torch.full_like(reference, 7, dtype=torch.long))
    losses.sum().backward()
    for values in (losses, scores, policy.grad):
        assert torch.isfinite(values).all()


def slopes(loss, log_ratio_w, log_ratio_l):
    """Gradient of one pair's loss at two log-ratios, float64."""
    policy = torch.tensor([[log_ratio_w, log_ratio_l]], dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(loss(policy, torch.zeros_like(policy))[0].sum(), policy)
    return gradient[0].tolist()


@pytest.mark.parametrize(("r0", "r1"), [(2.0, -5.0), (-5.0, 2.0), (0.0, 0.0), (40.0, -40.0)])
def test_ranking_nce_gradient_with_one_negative_is_that_of_lemma_3_2(r0, r1):
    """-beta * sigmoid(beta r_1 - beta r_0) * grad(r_0 - r_1)."""
    expected = -BETA * sigmoid(BETA * r1 - BETA * r0)
    gradient = slopes(lambda p, r: ranking_nce_loss(p, r, BETA), r0, r1)
    assert gradient == pytest.approx([expected, -expected], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranking_nce_with_one_negative_is_dpo_to_the_last_bit(dtype):
    """Section 2.3, in loss, scores and gradient, and at differences that overflow an exponential."""
    policy, reference = (values.to(dtype) for values in four_pairs())
    extremes = [torch.tensor(EXTREMES["ratios of 10000 nats"][side], dtype=dtype) for side in (0, 1)]
    policy, reference = torch.cat([policy, extremes[0]]).requires_grad_(), torch.cat([reference, extremes[1]])
    results = []
    for losses, scores in (ranking_nce_loss(policy, reference, 0.1), dpo_loss(policy, reference, 0.1)):
        results.append((losses, scores, torch.autograd.grad(losses.sum(), policy)[0]))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_ranking_nce_of_four_completions_worked_by_hand():
    """beta 0.5, log-ratios (2, 0, -2, 4), the last one absent: scores (1, 0, -1).

    Their softmax is (0.665241, 0.244728, 0.090031). Loss -log 0.665241 = 0.407606; gradient beta * (softmax - onehot).
    """
    policy = torch.tensor([[-8.0, -20.0, -12.0, -6.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-10.0, -20.0, -10.0, -10.0]], dtype=torch.float64)
    losses, scores = ranking_nce_loss(policy, reference, 0.5, torch.tensor([[True, True, True, False]]))
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert scores[0].tolist() == pytest.approx([1, 0, -1, 0])
    assert losses.item() == pytest.approx(0.407606, abs=1e-6)
    assert gradient[0].tolist() == pytest.approx([-0.167380, 0.122364, 0.045015, 0.0], abs=1e-6)


def test_ranking_nce_equals_pytorchs_cross_entropy_of_the_preferred_completion():
    random = torch.Generator().manual_seed(0)
    policy, reference = (3 * torch.randn(5, 6, dtype=torch.float64, generator=random) for _ in range(2))
    losses, _ = ranking_nce_loss(policy, reference, BETA)
    expected = torch.nn.functional.cross_entropy(BETA * (policy - reference), torch.zeros(5).long(), reduction="none")
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("filler", [0.0, 1e30, -1e30, math.inf, math.nan])
def test_ranking_nce_of_absent_completions_depends_on_nothing_that_stands_there(filler):
    """Row by row the loss of the completions there are; gradients at absent entries exactly 0, with none at all too."""
    random = torch.Generator().manual_seed(1)
    policy, reference = (torch.randn(3, 4, generator=random) for _ in range(2))
    present = torch.tensor([[True, True, True, True], [True, False, True, False], [True, False, False, False]])
    holed = policy.masked_fill(~present, filler).requires_grad_()
    losses, scores = ranking_nce_loss(holed, reference, BETA, present)
    losses.sum().backward()
    for row in range(3):
        there = present[row]
        alone, _ = ranking_nce_loss(policy[row : row + 1, there], reference[row : row + 1, there], BETA)
        assert losses[row].item() == pytest.approx(alone.item(), rel=1e-6)
    assert losses[2] == 0
    assert torch.equal(holed.grad[~present], torch.zeros(5)) and torch.equal(scores[~present], torch.zeros(5))
    assert torch.isfinite(holed.grad).all() and holed.grad[:2][present[:2]].count_nonzero() == 6


def test_ranking_nce_keeps_small_losses_of_large_scores_in_float32():
    """Scores 3000 and 2990: log(1 + e^-10) = 4.53989e-5, below the last bit of 3000, which is 2.4e-4."""
    losses, _ = ranking_nce_loss(torch.tensor([[3000.0, 2990.0, -3000.0]]), torch.zeros(1, 3), 1.0)
    assert losses.item() == pytest.approx(4.53989e-5, rel=1e-5)


def test_rpo_of_the_table_has_the_publications_gradient_with_sft_weight_eta_beta():
    """Liu et al. 2024: -log sigmoid(..) - eta * beta * log pi(y_w), differentiated by hand."""
    policy, reference = four_pairs()
    policy.requires_grad_()
    eta = 0.005
    [gradient] = torch.autograd.grad(rpo_loss(policy, reference, BETA, eta * BETA)[0].sum(), policy)
    for row, (p0, p1, r0, r1) in enumerate(rows_of(policy.detach(), reference)):
        weight = BETA * sigmoid(BETA * (p1 - r1) - BETA * (p0 - r0))
        assert gradient[row].tolist() == pytest.approx([-weight - eta * BETA, weight], rel=1e-12)


def test_exo_of_the_table_is_minus_score_times_sigmoid_and_leaves_the_rejected_completion_alone():
    for log_ratio in (-40.0, -1.0, 0.0, 2.0, 40.0):
        policy = torch.tensor([[log_ratio, 3.0]], dtype=torch.float64)
        losses, _ = exo_loss(policy, torch.zeros(1, 2), beta=0.5)
        assert losses.item() == pytest.approx(-0.5 * log_ratio * sigmoid(0.5 * log_ratio), abs=1e-15)
        assert slopes(lambda p, r: exo_loss(p, r, 0.5), log_ratio, 3.0)[1] == 0


def test_exo_of_the_table_lowers_a_chosen_completion_whose_score_is_below_minus_1_278():
    """The root of 1 + s * sigmoid(-s): descent raises the chosen completion above it and lowers it below."""
    assert 1 - 1.278465 * sigmoid(1.278465) == pytest.approx(0, abs=1e-6)
    assert slopes(lambda p, r: exo_loss(p, r, 1.0), -1.27, 0.0)[0] < 0
    assert slopes(lambda p, r: exo_loss(p, r, 1.0), -1.29, 0.0)[0] > 0


def test_exo_as_published_is_least_where_the_policy_has_the_smoothed_preference():
    """KL is 0 at q_w = 1 - epsilon, a score difference of log((1 - epsilon) / epsilon)."""
    best = math.log((1 - EPSILON) / EPSILON)
    losses, _ = exo_original_loss(torch.tensor([[best, 0.0]], dtype=torch.float64), torch.zeros(1, 2), 1.0, EPSILON)
    assert losses.item() == pytest.approx(0, abs=1e-12)
    gradient = slopes(lambda p, r: exo_original_loss(p, r, 1.0, EPSILON), best, 0.0)
    assert gradient == pytest.approx([0, 0], abs=1e-12)


def test_both_bco_losses_agree_at_delta_zero_only():
    policy, reference = four_pairs()
    for delta, same in ((0.0, True), (0.4, False), (-2.0, False)):
        table, original = (loss(policy, reference, BETA, delta)[0] for loss in (bco_loss, bco_original_loss))
        assert torch.allclose(table, original) == same


def test_bco_as_published_does_not_see_a_shift_of_scores_and_delta_and_the_table_does():
    """Delta is where the boundary lies: with both scores and delta 2 higher, each completion lies as before."""
    policy, reference = four_pairs()
    for loss, same in ((bco_original_loss, True), (bco_loss, False)):
        here, there = loss(policy, reference, 1.0, 0.5)[0], loss(policy + 2, reference, 1.0, 2.5)[0]
        assert torch.allclose(here, there) == same


def test_kto_as_published_saturates_on_both_sides_and_the_table_on_one():
    """A chosen completion 50 nats below the reference point: slope -beta as printed, none as published."""
    table = slopes(lambda p, r: kto_loss(p, r, 1.0, 0.0), -50.0, -50.0)
    published = slopes(lambda p, r: kto_original_loss(p, r, 1.0, 0.0, 1.0, 1.0), -50.0, -50.0)
    assert table[0] == pytest.approx(-1) and published[0] == pytest.approx(0, abs=1e-20)


def test_apo_of_the_table_falls_for_ever_and_the_published_ones_stay_between_0_and_2():
    """At a rejected log-ratio of -1000, beta 1: -log sigmoid(0) - 1000, with slope 1 still."""
    policy = torch.tensor([[0.0, -1000.0]], dtype=torch.float64)
    losses, _ = apo_loss(policy, torch.zeros(1, 2), 1.0)
    assert losses.item() == pytest.approx(math.log(2) - 1000)
    assert slopes(lambda p, r: apo_loss(p, r, 1.0), 0.0, -1000.0)[1] == pytest.approx(1)
    grid = torch.cartesian_prod(*(torch.linspace(-60, 60, 25, dtype=torch.float64),) * 2)
    for loss in (apo_zero_loss, apo_down_loss):
        losses, _ = loss(grid, torch.zeros_like(grid), 1.0)
        assert losses.min() >= 0 and losses.max() <= 2


def test_apo_zero_raises_the_chosen_completion_and_apo_down_lowers_it():
    assert slopes(lambda p, r: apo_zero_loss(p, r, 1.0), 0.0, -3.0)[0] < 0
    assert slopes(lambda p, r: apo_down_loss(p, r, 1.0), 0.0, -3.0)[0] > 0


def test_sppo_is_least_at_log_ratios_of_half_an_inverse_beta():
    losses, _ = sppo_loss(torch.tensor([[50.0, -50.0], [0.0, 0.0]]), torch.zeros(2, 2), 0.01)
    assert losses.tolist() == pytest.approx([0, 5000])


def test_nca_stops_raising_the_chosen_completion_at_a_score_of_log_two():
    """-sigmoid(-s) + 0.5 * sigmoid(s) = 0 at sigmoid(s) = 2/3."""
    loss = lambda p, r: nca_loss(p, r, 1.0)  # noqa: E731
    assert slopes(loss, math.log(2), 0.0)[0] == pytest.approx(0, abs=1e-12)
    assert slopes(loss, math.log(2) - 0.1, 0.0)[0] < 0 < slopes(loss, math.log(2) + 0.1, 0.0)[0]


def test_cpo_of_the_table_without_likelihood_term_is_length_normalised_simpo():
    policy, _ = four_pairs()
    simpo = simpo_loss(policy, TOKENS, BETA, GAMMA / BETA, length_normalised=True)
    torch.testing.assert_close(cpo_loss(policy, TOKENS, BETA, GAMMA, 0.0), simpo)


def test_kl_reference_point_is_beta_times_the_mean_log_ratio_and_never_negative():
    """Log-ratios 4, -1, 3: mean 2; the other way round -2, clamped."""
    policy, reference = torch.tensor([-6.0, -11.0, -2.0], requires_grad=True), torch.tensor([-10.0, -10.0, -5.0])
    assert kl_reference_point(policy, reference, 0.1) == pytest.approx(0.2)
    assert kl_reference_point(reference, policy.detach(), 0.1) == 0
    assert isinstance(kl_reference_point(policy, reference, 0.1), float)


def test_running_mean_is_the_mean_of_the_steps_and_survives_json():
    steps = [0.3, -1.2, 4.0, 0.0, 2.5]
    running = RunningMean()
    for count, mean in enumerate(steps, 1):
        before, running = running, running.update(mean)
        assert running.mean == pytest.approx(sum(steps[:count]) / count) and running.steps == count
        assert before.steps == count - 1
        running = RunningMean(*json.loads(json.dumps(running)))


# TRL's losses stand inside methods that run the model. The methods are TRL's, called on a trainer that was never set
# up; the model is a stand-in that answers with chosen log-probabilities of tokens.


def stand_in(trainer_class, **settings):
    trainer = object.__new__(trainer_class)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x
    )
    common = {"accelerator": accelerator, "model": SimpleNamespace(training=True), "aux_loss_enabled": False}
    for name, value in (common | settings).items():
        setattr(trainer, name, value)
    trainer._metrics = defaultdict(lambda: defaultdict(list))
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    return trainer


def token_logps(sums, tokens):
    """Log-probabilities (N, longest) of tokens, each its share of the sum, and the mask (N, longest) of real ones."""
    mask = torch.arange(int(tokens.max())) < tokens[:, None]
    return (sums / tokens)[:, None] * mask, mask


def batch_of(mask):
    """TRL's names for rows of one prompt token, row number included, and the completion."""
    rows, longest = mask.shape
    completion_mask = torch.cat([torch.zeros(rows, 1), mask], dim=1).long()
    input_ids = torch.arange(rows)[:, None].repeat(1, longest + 1)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "completion_mask": completion_mask}


def answering(logps):
    """A model whose row of log-probabilities is named by the first token of each input."""

    def model(input_ids, **_):
        found = logps[input_ids[:, 0]]
        zeros = torch.zeros_like(found)
        return SimpleNamespace(log_probs=found, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    return model


TRL_DPO = {
    "dpo": (["sigmoid"], [1.0]),
    "rpo_trl": (["sigmoid", "sft"], [1.0, LAMBDA]),
    "exo_original": (["exo_pair"], [1.0]),
    "apo_zero": (["apo_zero"], [1.0]),
    "apo_down": (["apo_down"], [1.0]),
    "sppo": (["sppo_hard"], [1.0]),
    "nca": (["nca_pair"], [1.0]),
}


def trls_dpo_loss(policy, reference, tokens, loss_types, loss_weights):
    """`DPOTrainer.compute_loss` of pairs with these sums."""
    from trl import DPOTrainer

    trainer = stand_in(
        DPOTrainer,
        args=SimpleNamespace(max_length=None),
        beta=BETA,
        loss_types=loss_types,
        loss_weights=loss_weights,
        label_smoothing=EPSILON,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        precompute_ref_logps=True,
    )
    logps, mask = token_logps(policy.T.flatten(), tokens.T.flatten())
    inputs = batch_of(mask) | {"ref_chosen_logps": reference[:, 0], "ref_rejected_logps": reference[:, 1]}
    return trainer.compute_loss(answering(logps), inputs)


@pytest.mark.parametrize("name", TRL_DPO)
def test_loss_and_gradient_of_each_pair_equal_trls_dpo_trainer(name):
    """exo_pair's logarithms of epsilon are float32 in TRL."""
    policy, reference = four_pairs()
    policy.requires_grad_()
    for row in range(4):
        pair = slice(row, row + 1)
        expected = trls_dpo_loss(policy[pair], reference[pair], TOKENS[pair], *TRL_DPO[name])
        losses, _ = LOSSES[name](policy[pair], reference[pair], TOKENS[pair])
        assert losses.item() == pytest.approx(expected.item(), rel=1e-6)
        [theirs], [ours] = (torch.autograd.grad(loss.sum(), policy) for loss in (expected, losses))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_bco_without_delta_equals_trls_bco_pair():
    """TRL 1.16 has no delta."""
    policy, reference = four_pairs()
    expected = trls_dpo_loss(policy, reference, TOKENS, ["bco_pair"], [1.0])
    for loss in (bco_loss, bco_original_loss):
        assert loss(policy, reference, BETA, 0.0)[0].mean().item() == pytest.approx(expected.item(), rel=1e-12)


def test_trls_mean_over_a_batchs_tokens_differs_from_the_mean_of_each_completions_own():
    """rpo_trl_loss's one deviation from TRL: the same at one pair a batch (above), not at four."""
    policy, reference = four_pairs()
    theirs = trls_dpo_loss(policy, reference, TOKENS, *TRL_DPO["rpo_trl"]).item()
    preference = dpo_loss(policy, reference, BETA)[0].mean().item()
    chosen, tokens = policy[:, 0], TOKENS[:, 0]
    assert theirs == pytest.approx(preference - LAMBDA * (chosen.sum() / tokens.sum()).item(), rel=1e-12)
    ours = LOSSES["rpo_trl"](policy, reference, TOKENS)[0].mean().item()
    assert abs(ours - theirs) > 0.01


def test_kto_as_published_and_its_reference_point_equal_trls_kto_trainer():
    """Rows 0-3 are the chosen, 4-7 the rejected completions, 8-15 the mismatched ones.

    TRL's mean is over 8 completions, ours over 4 pairs: twice as much.
    """
    from trl import KTOTrainer

    policy, reference = four_pairs()
    policy.requires_grad_()
    unrelated, unrelated_reference = (values.flip(0).T.flatten().detach() for values in (policy, reference))
    unrelated = unrelated + 6
    tokens = TOKENS.T.flatten()
    logps, mask = token_logps(torch.cat([policy.T.flatten(), unrelated]), torch.cat([tokens, tokens]))
    batch, kl_batch = batch_of(mask[:8]), batch_of(mask[8:])
    trainer = stand_in(
        KTOTrainer,
        args=SimpleNamespace(max_length=None),
        beta=BETA,
        loss_type="kto",
        desirable_weight=DESIRABLE,
        undesirable_weight=UNDESIRABLE,
        calculate_KL=True,
        precompute_ref_logps=True,
    )
    inputs = batch | {"KL_" + name: values for name, values in kl_batch.items()}
    inputs["KL_input_ids"] = inputs["KL_input_ids"] + 8
    inputs["label"] = torch.tensor([True] * 4 + [False] * 4)
    inputs |= {"ref_logps": reference.T.flatten(), "ref_KL_logps": unrelated_reference}
    expected = 2 * trainer.compute_loss(answering(logps), inputs)

    delta = kl_reference_point(unrelated, unrelated_reference, BETA)
    assert delta > 0.5
    losses, _ = kto_original_loss(policy, reference, BETA, delta, DESIRABLE, UNDESIRABLE)
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-12)
    [theirs], [ours] = (torch.autograd.grad(loss.mean(), policy) for loss in (expected, losses))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("name", "loss_type", "cpo_alpha"),
    [("cpo_original", "sigmoid", LAMBDA), ("cpo", "simpo", LAMBDA * BETA), ("simpo", "simpo", 0.0)],
)
def test_loss_of_each_pair_equals_trls_cpo_trainer(name, loss_type, cpo_alpha):
    """`CPOTrainer.get_batch_loss_metrics` on random logits, one pair at a time; Table 5's lambda lacks TRL's beta."""
    from trl.experimental.cpo import CPOTrainer

    trainer = stand_in(
        CPOTrainer,
        alpha=0.0,
        beta=BETA,
        loss_type=loss_type,
        cpo_alpha=cpo_alpha,
        simpo_gamma=GAMMA,
        label_smoothing=0.0,
        is_encoder_decoder=False,
        pad_token_id=0,
    )
    random = torch.Generator().manual_seed(2)
    for tokens in TOKENS:
        mask = torch.arange(int(tokens.max())) < tokens[:, None]
        input_ids = torch.randint(0, 11, (2, mask.shape[1] + 1), generator=random)
        labels = torch.cat([torch.full((2, 1), -100), input_ids[:, 1:].masked_fill(~mask, -100)], dim=1)
        logits = 2 * torch.randn(2, mask.shape[1] + 1, 11, dtype=torch.float64, generator=random)
        batch = {}
        for row, side in enumerate(("chosen", "rejected")):
            batch[f"{side}_input_ids"] = input_ids[row : row + 1]
            batch[f"{side}_attention_mask"] = torch.ones_like(input_ids[row : row + 1])
            batch[f"{side}_labels"] = labels[row : row + 1]
        model = lambda ids, logits=logits, **_: SimpleNamespace(logits=logits)  # noqa: E731
        expected, metrics = trainer.get_batch_loss_metrics(model, batch)

        all_logps = logits.log_softmax(-1)
        sums = [
            sum(all_logps[row, place, input_ids[row, place + 1]].item() for place in range(int(tokens[row])))
            for row in (0, 1)
        ]
        losses, scores = LOSSES[name](torch.tensor([sums], dtype=torch.float64), None, tokens[None])
        assert losses.item() == pytest.approx(expected.item(), rel=1e-6)
        assert scores[0].tolist() == pytest.approx([metrics["rewards/chosen"], metrics["rewards/rejected"]], rel=1e-6)
