"""MMPO, DPO and SimPO: against Listing 1 in plain Python, hand-worked numbers, and TRL's own code; and every objective
built by its name. The losses of Table 5 stand in test_objectives_table5.py."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmpo_train.config import OBJECTIVE_FIELDS, TrialConfig, replace
from mmpo_train.model.batches import group_rewards
from mmpo_train.objectives import BUILDERS, Batch, build_objective
from mmpo_train.objectives.exo import exo_loss, exo_original_loss
from mmpo_train.objectives.mmpo import REJECTED_REWARD, mmpo_loss, normalised_rewards
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

BETA, R_EPS = 0.1, 0.6


def pairs_of_logps(count, seed=0, low=-300.0, high=-20.0):
    """Policy and reference log-probabilities (N, 2), float64."""
    random = np.random.default_rng(seed)
    reference = random.uniform(low, high, (count, 2))
    return torch.from_numpy(reference + random.normal(0, 5, (count, 2))), torch.from_numpy(reference)


def listing_1(policy, reference, beta, r_eps):
    """Losses and scores of one group as Listing 1 computes them, one Python float at a time."""
    chosen_rs = [r_eps + beta * chosen for chosen, _ in reference]
    rejected_rs = [0.1 + beta * rejected for _, rejected in reference]
    low, high = min(chosen_rs + rejected_rs), max(chosen_rs + rejected_rs)
    denominator = high + 1e-6 - low
    losses, scores = [], []
    for (chosen, rejected), chosen_r, rejected_r in zip(policy, chosen_rs, rejected_rs, strict=True):
        s_w = chosen + (chosen_r + 1e-6 - low) / denominator
        s_l = rejected + (rejected_r + 1e-6 - low) / denominator
        top = max(s_w, s_l)
        log_sum = top + math.log(math.exp(s_w - top) + math.exp(s_l - top))
        losses.append(-log_sum - log_sigmoid(s_w - s_l))
        scores.append([s_w, s_l])
    return losses, scores


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_mmpo_of_two_pairs_worked_by_hand():
    """beta 0.1, r_eps 0.6, reference (-10, -15) and (-20, -12).

    R = (-0.4, -1.4) and (-1.4, -1.1); low -1.4, high -0.4, so the normalised rewards are (1, 0) and (0, 0.3), up to
    the 1e-6. With policy (-2, -3) and (-5, -5): s = (-1, -3) and (-5, -4.7).
    Loss 1: -(-1 + log(1 + e^-2)) + log(1 + e^-2) = 1. Loss 2: -(-4.7 + log(1 + e^-0.3)) + log(1 + e^0.3) = 5.
    """
    reference = torch.tensor([[-10.0, -15.0], [-20.0, -12.0]])
    policy = torch.tensor([[-2.0, -3.0], [-5.0, -5.0]])
    rewards = normalised_rewards(reference, beta=0.1, r_eps=0.6)
    torch.testing.assert_close(rewards, torch.tensor([[1.0, 0.0], [0.0, 0.3]]), atol=2e-6, rtol=0)
    losses, scores = mmpo_loss(policy, rewards)
    torch.testing.assert_close(scores, torch.tensor([[-1.0, -3.0], [-5.0, -4.7]]), atol=3e-6, rtol=0)
    torch.testing.assert_close(losses, torch.tensor([1.0, 5.0]), atol=3e-6, rtol=0)


@pytest.mark.parametrize("pairs_per_group", [1, 2, 3, 8, 100])
@pytest.mark.parametrize(("beta", "r_eps"), [(0.1, 0.6), (0.01, 0.0), (0.5, 1.0)])
def test_mmpo_equals_listing_1_in_groups_of_any_size(pairs_per_group, beta, r_eps):
    """Eleven pairs in a shuffled order: all sizes but 1 leave a partial last group, whose extremes are its own."""
    policy, reference = pairs_of_logps(11)
    order = np.random.default_rng(1).permutation(11)
    rewards = group_rewards(
        reference.numpy(),
        np.ones((11, 2), dtype=bool),
        order,
        pairs_per_group,
        lambda refs, present: normalised_rewards(refs, beta, r_eps, present),
    )
    losses, scores = mmpo_loss(policy, torch.from_numpy(rewards))
    for start in range(0, 11, pairs_per_group):
        group = order[start : start + pairs_per_group]
        expected_losses, expected_scores = listing_1(policy[group].tolist(), reference[group].tolist(), beta, r_eps)
        assert losses[group].tolist() == pytest.approx(expected_losses, abs=1e-6)
        assert scores[group].flatten().tolist() == pytest.approx(np.ravel(expected_scores).tolist(), abs=1e-6)


def test_mmpo_in_float32_keeps_listing_1_to_the_last_bits():
    """Sums of 300 nats have a last bit of 3e-5 in float32."""
    policy, reference = pairs_of_logps(8, seed=3)
    rewards = normalised_rewards(reference.float(), BETA, R_EPS)
    losses, _ = mmpo_loss(policy.float(), rewards)
    assert losses.tolist() == pytest.approx(listing_1(policy.tolist(), reference.tolist(), BETA, R_EPS)[0], abs=1e-4)


def test_normalised_rewards_end_at_one_and_begin_just_above_zero():
    """The smallest is 1e-6 / (max - min + 1e-6), which is not 0."""
    _, reference = pairs_of_logps(8)
    rewards = normalised_rewards(reference, BETA, R_EPS)
    raw = BETA * reference + torch.tensor([R_EPS, REJECTED_REWARD])
    assert rewards.max() == 1.0
    assert rewards.min().item() == pytest.approx(1e-6 / (raw.max() - raw.min()).item(), rel=1e-5)


def test_normalised_rewards_lose_nothing_to_reference_sums_of_thousands_of_nats():
    """Two pairs 0.001 nats apart at -3000: float32 would round beta * -3000.001 to steps of 3e-5."""
    reference = torch.tensor([[-3000.0, -3000.0], [-2999.999, -3000.0]], dtype=torch.float64)
    rewards = normalised_rewards(reference, beta=0.1, r_eps=0.1)
    assert rewards[1, 0].item() == 1.0
    assert rewards[0].tolist() == pytest.approx([1e-6 / (1e-4 + 1e-6)] * 2, rel=1e-5)


def test_mmpo_gradient_is_that_of_finite_differences():
    policy, reference = pairs_of_logps(5, seed=5)
    policy = reference.clone() + torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rewards = normalised_rewards(reference, BETA, R_EPS)
    policy.requires_grad_()
    [gradient] = torch.autograd.grad(mmpo_loss(policy, rewards)[0].sum(), policy)
    for row in range(5):
        for column in range(2):
            values = []
            for step in (1e-4, -1e-4):
                moved = policy.detach().clone()
                moved[row, column] += step
                values.append(sum(listing_1(moved.tolist(), reference.tolist(), BETA, R_EPS)[0]))
            assert gradient[row, column].item() == pytest.approx((values[0] - values[1]) / 2e-4, abs=1e-6)


@pytest.mark.parametrize("difference", [-30.0, -2.0, 0.0, 0.7, 30.0])
def test_mmpo_gradient_weights_are_sigmoids_of_score_difference(difference):
    """Theorem 3.2, of the first term: the loss with its auxiliary term -log sigmoid(s_w - s_l) taken off again."""
    policy = torch.tensor([[-50.0, -50.0 - difference]], dtype=torch.float64, requires_grad=True)
    losses, scores = mmpo_loss(policy, torch.zeros(1, 2))
    auxiliary = -torch.nn.functional.logsigmoid(policy[:, 0] - policy[:, 1])
    [gradient] = torch.autograd.grad((losses - auxiliary).sum(), policy)
    s_w, s_l = scores[0].tolist()
    assert gradient[0].tolist() == pytest.approx([-sigmoid(s_w - s_l), -sigmoid(s_l - s_w)], abs=1e-12)


@pytest.mark.parametrize("r_eps", [0.0, 0.6, 1.0])
def test_mmpo_gradient_as_published_is_that_of_the_chosen_likelihood_alone(r_eps):
    """Listing 1's two terms cancel: with d = s_w - s_l,

        -logsumexp(s_w, s_l) = -s_w - log(1 + e^-d)    and    -log sigmoid(d) = log(1 + e^-d),

    so the loss is -s_w, its gradient -1 on the chosen and sigmoid(-d) - sigmoid(-d) = 0 on the rejected completion,
    whatever beta and r_eps are.
    """
    policy, reference = pairs_of_logps(8, seed=8)
    policy.requires_grad_()
    losses, scores = mmpo_loss(policy, normalised_rewards(reference, BETA, r_eps))
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    torch.testing.assert_close(losses.detach(), -scores[:, 0])
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.0]] * 8, dtype=torch.float64), atol=1e-12, rtol=0)


def test_r_eps_below_a_tenth_reverses_the_intended_order():
    """One pair with equal reference log-probabilities: R = (r_eps, 0.1), so the larger becomes 1, the smaller 0."""
    equal = torch.tensor([[-40.0, -40.0]])
    for r_eps, expected in ((0.6, [1.0, 0.0]), (0.1, [1.0, 1.0]), (0.0, [0.0, 1.0])):
        assert normalised_rewards(equal, BETA, r_eps)[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_min_max_cancels_beta_where_both_margins_are_equal():
    """With r_eps = 0.1 the normalised reward is (ref - min ref) / (max ref - min ref), whatever beta is."""
    _, reference = pairs_of_logps(8)
    expected = (reference - reference.min()) / (reference.max() - reference.min())
    for beta in (0.01, 0.05, 0.1, 0.5):
        rewards = normalised_rewards(reference, beta, r_eps=REJECTED_REWARD)
        torch.testing.assert_close(rewards.double(), expected, atol=1e-6, rtol=0)


def test_min_max_nearly_cancels_beta_in_general():
    """Reference sums from -420 to -20 nats: beta * 400 dwarfs the margins' 0.5.

    R_w - R_l of equal sums is 0.5 / (beta * 400 ± 0.5): 0.0125 at beta 0.1, 0.0025 at 0.5.
    """
    reference = torch.tensor([[-20.0, -420.0], [-200.0, -200.0]])
    shifts = {}
    for beta in (0.1, 0.5):
        rewards = normalised_rewards(reference, beta, r_eps=0.6)
        shifts[beta] = (rewards[1, 0] - rewards[1, 1]).item()
    assert shifts[0.1] == pytest.approx(0.5 / 40.5, rel=1e-4)
    assert shifts[0.5] == pytest.approx(0.5 / 200.5, rel=1e-4)


@pytest.mark.parametrize("present", [None, torch.ones(9, 2, dtype=torch.bool)])
def test_mmpo_of_pairs_is_the_expression_of_listing_1_to_the_last_bit(present):
    """Losses, scores, gradients and rewards in float32, whether or not one says that both completions are there."""
    policy, reference = (values.float() for values in pairs_of_logps(9, seed=6))
    rewards = normalised_rewards(reference, BETA, R_EPS, present)
    raw = torch.tensor([R_EPS, REJECTED_REWARD], dtype=torch.float64) + BETA * reference.double()
    assert torch.equal(rewards, ((raw + 1e-6 - raw.min()) / (raw.max() + 1e-6 - raw.min())).float())
    policy.requires_grad_()
    losses, scores = mmpo_loss(policy, rewards, present)
    listed = policy + rewards
    expected = -torch.logsumexp(listed, dim=1) - torch.nn.functional.logsigmoid(listed[:, 0] - listed[:, 1])
    assert torch.equal(losses, expected) and torch.equal(scores, listed.detach())
    [ours], [theirs] = (torch.autograd.grad(loss.sum(), policy) for loss in (losses, expected))
    assert torch.equal(ours, theirs)


def test_mmpo_of_three_completions_worked_by_hand():
    """Scores (0, -log 2, -log 4), the fourth absent: exp (1, 1/2, 1/4), -logsumexp = -log 1.75.

    Auxiliary: mean of log(1 + 1/2) and log(1 + 1/4) = log(1.5 * 1.25) / 2. Gradient of the rejected ones:
    -(1/2) / 1.75 + (1/3) / 2 = -0.119048 and -(1/4) / 1.75 + (1/5) / 2 = -0.042857; of the chosen one
    -1 / 1.75 - (1/3 + 1/5) / 2 = -0.838095. Each is negative: descent raises the rejected completions, too.
    """
    policy = torch.tensor([[-0.5, -1.0, -1.5, 7.0]], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([[0.5, 1 - math.log(2), 1.5 - math.log(4), 0.0]], dtype=torch.float64)
    losses, scores = mmpo_loss(policy, rewards, torch.tensor([[True, True, True, False]]))
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert scores[0].tolist() == pytest.approx([0, -math.log(2), -math.log(4), 0])
    assert losses.item() == pytest.approx(-math.log(1.75) + math.log(1.5 * 1.25) / 2)
    assert gradient[0].tolist() == pytest.approx([-0.838095, -0.119048, -0.042857, 0], abs=1e-6)


def test_mmpo_of_three_equal_scores_raises_the_rejected_completions():
    """-1/3 + (1/2) / 2 = -1/12 each: unlike for a pair, the two terms do not cancel."""
    policy = torch.zeros(1, 3, requires_grad=True)
    losses, _ = mmpo_loss(policy, torch.zeros(1, 3))
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert gradient[0].tolist() == pytest.approx([-1 / 3 - 1 / 2, -1 / 12, -1 / 12])


@pytest.mark.parametrize("filler", [0.0, 1e30, -math.inf, math.nan])
def test_mmpo_depends_on_nothing_that_stands_where_a_completion_is_absent(filler):
    """Rewards, losses and gradients of a group of two and three completions; in the last row there is but one."""
    random = torch.Generator().manual_seed(2)
    reference, policy = (torch.randn(3, 3, generator=random) for _ in range(2))
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    rewards = normalised_rewards(reference.masked_fill(~present, filler), BETA, R_EPS, present)
    raw = [
        (R_EPS if column == 0 else REJECTED_REWARD) + BETA * reference[row, column].item()
        for row, column in present.nonzero().tolist()
    ]
    expected = [(value + 1e-6 - min(raw)) / (max(raw) + 1e-6 - min(raw)) for value in raw]
    assert rewards[present].tolist() == pytest.approx(expected, rel=1e-5)
    assert rewards[~present].tolist() == [0.0] * 3
    holed = policy.masked_fill(~present, filler).requires_grad_()
    losses, scores = mmpo_loss(holed, rewards, present)
    losses.sum().backward()
    for row in range(3):
        there = present[row]
        alone, _ = mmpo_loss(policy[row : row + 1, there], rewards[row : row + 1, there])
        assert losses[row].item() == pytest.approx(alone.item(), rel=1e-6)
    assert losses[2].item() == pytest.approx(-scores[2, 0].item())
    assert torch.isfinite(holed.grad).all() and holed.grad[~present].tolist() == [0.0] * 3


def test_dpo_of_one_pair_worked_by_hand():
    """beta 0.1, log-ratios 2 and -5: scores 0.2 and -0.5, loss log(1 + e^-0.7) = 0.403186.

    Gradient -beta * sigmoid(-0.7) = -0.0331812 on the chosen, the opposite on the rejected completion.
    """
    policy = torch.tensor([[-10.0, -20.0]], dtype=torch.float64, requires_grad=True)
    losses, scores = dpo_loss(policy, torch.tensor([[-12.0, -15.0]]), beta=0.1)
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert scores[0].tolist() == pytest.approx([0.2, -0.5])
    assert losses.item() == pytest.approx(0.403186, abs=1e-6)
    assert gradient[0].tolist() == pytest.approx([-0.0331812, 0.0331812], abs=1e-7)


def test_dpo_of_an_untrained_policy_is_log_two():
    policy, _ = pairs_of_logps(3)
    losses, scores = dpo_loss(policy, policy, beta=0.1)
    assert losses.tolist() == pytest.approx([math.log(2)] * 3)
    assert scores.count_nonzero() == 0


def test_simpo_on_sums_worked_by_hand():
    """beta 0.1, gamma/beta 1.2: -2.0 - -3.0 - 0.12 = 0.88, loss log(1 + e^-0.88) = 0.346861 (Eq. 8).

    Gradient -beta * sigmoid(-0.88) = -0.0293179 on the chosen completion.
    """
    policy = torch.tensor([[-20.0, -30.0]], dtype=torch.float64, requires_grad=True)
    losses, scores = simpo_loss(policy, torch.tensor([[4, 10]]), 0.1, 1.2, length_normalised=False)
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert scores[0].tolist() == pytest.approx([-2.0, -3.0])
    assert losses.item() == pytest.approx(math.log1p(math.exp(-0.88)), abs=1e-9)
    assert gradient[0].tolist() == pytest.approx([-0.1 * sigmoid(-0.88), 0.1 * sigmoid(-0.88)], abs=1e-9)


def test_simpo_on_means_worked_by_hand():
    """beta 2, gamma/beta 0.5, means -5 and -3: -10 + 6 - 1 = -5, loss log(1 + e^5); tokens divide the gradient."""
    policy = torch.tensor([[-20.0, -30.0]], dtype=torch.float64, requires_grad=True)
    losses, scores = simpo_loss(policy, torch.tensor([[4, 10]]), 2.0, 0.5, length_normalised=True)
    [gradient] = torch.autograd.grad(losses.sum(), policy)
    assert scores[0].tolist() == pytest.approx([-10.0, -6.0])
    assert losses.item() == pytest.approx(math.log1p(math.exp(5)), abs=1e-9)
    assert gradient[0].tolist() == pytest.approx([-2 / 4 * sigmoid(5), 2 / 10 * sigmoid(5)], abs=1e-9)


@pytest.mark.parametrize(("beta", "gamma_over_beta"), [(0.1, 1.2), (2.0, 0.5), (0.01, 0.0)])
@pytest.mark.parametrize("length_normalised", [False, True])
def test_simpo_equals_trls_cpo_trainer(beta, gamma_over_beta, length_normalised):
    """`CPOTrainer.cpo_loss` with loss_type simpo, given means as TRL's trainer does, and sums for the paper's Eq. 8."""
    from trl.experimental.cpo import CPOTrainer

    policy, _ = pairs_of_logps(9, high=-5.0)
    tokens = torch.randint(1, 60, (9, 2), generator=torch.Generator().manual_seed(0))
    shown = policy / tokens if length_normalised else policy
    trainer = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        beta=beta,
        simpo_gamma=beta * gamma_over_beta,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    expected, chosen_rewards, rejected_rewards = CPOTrainer.cpo_loss(trainer, shown[:, 0], shown[:, 1])
    losses, scores = simpo_loss(policy, tokens, beta, gamma_over_beta, length_normalised)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(scores, torch.stack([chosen_rewards, rejected_rewards], dim=1))


def test_dpo_of_a_whole_batch_equals_trls_trainer(prepared, model_folder, tmp_path):
    """Loss and gradient of `DPOTrainer.compute_loss` on the same token ids, its own model runs and padding included.

    Our reference sums come from the store, TRL's from its own reference model; the policy is the model, disturbed.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from mmpo_train.data.tokens import read_table
    from mmpo_train.model.batches import collate
    from mmpo_train.model.logps import CompletionLogps
    from mmpo_train.model.policy import load_model, load_tokenizer
    from mmpo_train.model.reference import read_reference

    table = read_table(prepared.places.tokens, "train")
    reference = torch.from_numpy(read_reference(prepared.places.reference, "train"))
    pairs = np.array([3, 0, 11, 6])
    trainer = DPOTrainer(
        model=load_model(model_folder),
        ref_model=load_model(model_folder),
        args=DPOConfig(
            str(tmp_path), beta=BETA, report_to="none", use_cpu=True, gradient_checkpointing=False, bf16=False
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2),
        processing_class=load_tokenizer(model_folder),
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    sides = [[(table.prompts[pair], table.completions[pair][side]) for pair in pairs] for side in (0, 1)]
    longest = max(len(prompt) + len(ids) for side in sides for prompt, ids in side)
    shape = (2 * len(pairs), longest)
    inputs = {name: torch.zeros(shape, dtype=torch.long) for name in ("input_ids", "attention_mask", "completion_mask")}
    for row, (prompt, ids) in enumerate(sides[0] + sides[1]):
        end = len(prompt) + len(ids)
        inputs["input_ids"][row, :end] = torch.tensor([*prompt.tolist(), *ids.tolist()])
        inputs["attention_mask"][row, :end] = 1
        inputs["completion_mask"][row, len(prompt) : end] = 1
    expected = trainer.compute_loss(trainer.model, inputs)
    expected.backward()

    ours = CompletionLogps(load_model(model_folder))
    ours.model.load_state_dict(state)
    losses, _ = dpo_loss(ours(collate(table, pairs)).reshape(-1, 2), reference[pairs], BETA)
    losses.mean().backward()
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = dict(trainer.model.named_parameters())
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)


EXTREMES = {
    "sums of -3000 nats": ([[-3000.0, -2990.0], [-2950.0, -3000.0]], [[-3000.0, -3000.0], [-2999.0, -2000.0]]),
    "equal scores": ([[-10.0, -10.0]], [[-10.0, -10.0]]),
    "equal everything in a group": ([[-10.0, -10.0]] * 3, [[-10.0, -10.0]] * 3),
    "huge ratios": ([[-5000.0, -1.0], [-1.0, -5000.0]], [[-1.0, -5000.0], [-5000.0, -1.0]]),
    "certain completions": ([[0.0, -1e-6]], [[-1e-6, 0.0]]),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("objective", BUILDERS)
def test_extreme_inputs_give_finite_losses_and_gradients(objective, extreme):
    policy, reference = (torch.tensor(values) for values in EXTREMES[extreme])
    policy.requires_grad_()
    built = build_objective(replace(TrialConfig(), {"objective": objective}))
    present, tokens = torch.ones_like(reference, dtype=torch.bool), torch.full_like(reference, 7, dtype=torch.long)
    rewards = built.rewards(reference, present) if built.rewards else torch.zeros_like(reference)
    losses, scores = built.loss(Batch(policy, reference, rewards, tokens, present, 0.5))
    losses.sum().backward()
    for values in (losses, scores, policy.grad, rewards):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("objective", BUILDERS)
def test_scores_carry_no_gradient_and_losses_do(objective):
    policy, reference = pairs_of_logps(2)
    built = build_objective(replace(TrialConfig(), {"objective": objective}))
    ones = torch.ones_like(reference)
    batch = Batch(policy.requires_grad_(), reference, torch.zeros_like(reference), ones, ones.bool())
    losses, scores = built.loss(batch)
    assert losses.shape == (2,) and scores.shape == (2, 2)
    assert losses.requires_grad and not scores.requires_grad


def test_an_objective_trains_with_the_hyper_parameters_of_its_config():
    """Each built loss against the function called by hand, at values that are nobody's default."""
    policy, reference = pairs_of_logps(3)
    tokens, present, delta = torch.tensor([[3, 4], [5, 6], [7, 8]]), torch.ones(3, 2, dtype=torch.bool), 0.8
    values = {
        "beta": 0.3,
        "r_eps": 0.9,
        "gamma_over_beta": 0.7,
        "length_normalised": True,
        "gamma": 1.7,
        "sft_weight": 0.2,
        "label_smoothing": 0.03,
        "desirable_weight": 1.4,
        "undesirable_weight": 0.6,
    }
    built = {name: build_objective(replace(TrialConfig(), values | {"objective": name})) for name in BUILDERS}
    rewards = built["mmpo"].rewards(reference, present)
    torch.testing.assert_close(rewards, normalised_rewards(reference, 0.3, 0.9))
    ratios = policy, reference, 0.3
    ranking = ranking_nce_loss(*ratios, present)
    expected = {
        "mmpo": mmpo_loss(policy, rewards, present, tokens),
        "dpo": dpo_loss(*ratios),
        "simpo": simpo_loss(policy, tokens, 0.3, 0.7, True),
        "rpo": rpo_loss(*ratios, 0.2),
        "rpo_trl": rpo_trl_loss(policy, reference, tokens, 0.3, 0.2),
        "exo": exo_loss(*ratios),
        "exo_original": exo_original_loss(*ratios, 0.03),
        "cpo": cpo_loss(policy, tokens, 0.3, 1.7, 0.2),
        "cpo_original": cpo_original_loss(policy, tokens, 0.3, 0.2),
        "bco": bco_loss(*ratios, 0.8),
        "bco_original": bco_original_loss(*ratios, 0.8),
        "kto": kto_loss(*ratios, 0.8),
        "kto_original": kto_original_loss(*ratios, 0.8, 1.4, 0.6),
        "apo": apo_loss(*ratios),
        "apo_zero": apo_zero_loss(*ratios),
        "apo_down": apo_down_loss(*ratios),
        "sppo": sppo_loss(*ratios),
        "nca": nca_loss(*ratios),
        "rnce": ranking,
        "mc_po": ranking,
        "on_mc_po": ranking,
        "online_dpo": dpo_loss(*ratios),
    }
    assert set(expected) == set(BUILDERS)
    batch = Batch(policy, reference, rewards, tokens, present, delta)
    for name, result in expected.items():
        torch.testing.assert_close(built[name].loss(batch), result)


@pytest.mark.parametrize("objective", ["mmpo", "rnce", "mc_po", "on_mc_po"])
def test_objectives_of_many_completions_pass_on_which_are_there(objective):
    """nan stands where a completion is absent."""
    policy, reference = (torch.tensor([[-3.0, -4.0, math.nan], [-5.0, -2.0, -6.0]]) for _ in range(2))
    present = ~policy.isnan()
    built = build_objective(replace(TrialConfig(), {"objective": objective}))
    rewards = built.rewards(reference, present) if built.rewards else torch.zeros_like(reference)
    losses, scores = built.loss(Batch(policy, reference, rewards, torch.ones_like(reference), present))
    assert torch.isfinite(losses).all() and torch.isfinite(scores).all()


def test_every_objective_of_the_config_can_be_built():
    assert set(BUILDERS) == set(OBJECTIVE_FIELDS)
