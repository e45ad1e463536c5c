"""Logistic objectives on the score difference of a pair: DPO, SimPO, RPO and CPO.

Policy and reference log-probabilities have shape (B, 2), chosen first, summed over completion tokens, in nats;
`completion_tokens` has the same shape. Losses have shape (B,), scores (B, 2), detached. "Table 5" is that of the
MC-PO paper (Chen et al. 2025); TRL is 1.16.
"""

import torch.nn.functional as F
from torch import Tensor


def dpo_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """DPO loss of each pair, with the scores from which it was computed.

    loss = -log sigmoid(s_w - s_l), s = beta * (policy_logps - ref_logps)
    (Rafailov et al. 2023; Eq. 9 of the MMPO paper; Table 5; TRL's `sigmoid`).
    """
    scores = beta * (policy_logps - ref_logps)
    return -F.logsigmoid(scores[:, 0] - scores[:, 1]), scores.detach()


def simpo_loss(
    policy_logps: Tensor, completion_tokens: Tensor, beta: float, gamma_over_beta: float, length_normalised: bool
) -> tuple[Tensor, Tensor]:
    """SimPO loss of each pair, with the scores from which it was computed.

    loss = -log sigmoid(s_w - s_l - gamma), s = beta * policy_logps, gamma = gamma_over_beta * beta
    (Eq. 8 of the MMPO paper, which sums over tokens). With `length_normalised`, s = beta * policy_logps / tokens
    (Meng et al. 2024; Table 5).
    """
    scores = beta * policy_logps
    if length_normalised:
        scores = scores / completion_tokens
    return -F.logsigmoid(scores[:, 0] - scores[:, 1] - gamma_over_beta * beta), scores.detach()


def rpo_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float, sft_weight: float) -> tuple[Tensor, Tensor]:
    """RPO loss of each pair as Table 5 prints it, with its scores beta * log-ratio.

    loss = -log sigmoid(s_w - s_l) - sft_weight * (policy_w - ref_w), s = beta * (policy_logps - ref_logps).

    Its gradient is that of Liu et al. 2024 ("Provably mitigating overoptimization"), -eta * beta * policy_w in place
    of the last term, with sft_weight = eta * beta: the reference is a constant. Both are sums over tokens, so that
    long completions weigh more; `rpo_trl_loss` has the mean, as training code has it.
    """
    losses, scores = dpo_loss(policy_logps, ref_logps, beta)
    return losses - sft_weight * (policy_logps[:, 0] - ref_logps[:, 0]), scores


def rpo_trl_loss(
    policy_logps: Tensor, ref_logps: Tensor, completion_tokens: Tensor, beta: float, sft_weight: float
) -> tuple[Tensor, Tensor]:
    """RPO loss of each pair as TRL trains it, with its scores beta * log-ratio.

    loss = -log sigmoid(s_w - s_l) - sft_weight * policy_w / tokens_w, s = beta * (policy_logps - ref_logps)
    (TRL's loss types `sigmoid` and `sft`, weights 1 and `sft_weight`, once `rpo_alpha`).

    `rpo_loss`, Table 5's, has the sum of log-ratios instead of the mean of log-probabilities. TRL takes the mean over
    all chosen tokens of a device's batch, here it is each completion's own, so that a loss does not depend on its
    neighbours: the same where a batch has one pair, as in the MC-PO paper (Appendix B.1).
    """
    losses, scores = dpo_loss(policy_logps, ref_logps, beta)
    return losses - sft_weight * policy_logps[:, 0] / completion_tokens[:, 0], scores


def cpo_loss(
    policy_logps: Tensor, completion_tokens: Tensor, beta: float, gamma: float, sft_weight: float
) -> tuple[Tensor, Tensor]:
    """CPO loss of each pair as Table 5 prints it, with its scores beta * mean log-probability.

    loss = -log sigmoid(s_w - s_l - gamma) - sft_weight * s_w, s = beta * policy_logps / completion_tokens.

    This is SimPO with a likelihood term (TRL's CPOTrainer with loss type `simpo`, where the term lacks the factor
    beta: TRL's `cpo_alpha` is sft_weight * beta). `gamma` is absolute, not a multiple of beta. Xu et al. 2024 have
    neither length normalisation nor gamma: `cpo_original_loss`.
    """
    scores = beta * policy_logps / completion_tokens
    losses = -F.logsigmoid(scores[:, 0] - scores[:, 1] - gamma) - sft_weight * scores[:, 0]
    return losses, scores.detach()


def cpo_original_loss(
    policy_logps: Tensor, completion_tokens: Tensor, beta: float, sft_weight: float
) -> tuple[Tensor, Tensor]:
    """CPO loss of each pair as Xu et al. 2024 and TRL train it, with its scores beta * policy_logps.

    loss = -log sigmoid(s_w - s_l) - sft_weight * policy_w / tokens_w, s = beta * policy_logps
    (TRL's CPOTrainer with loss type `sigmoid`, whose `cpo_alpha`, 1 by default, is sft_weight).

    The preference term is on sums; the likelihood term, -policy_w in the publication's Eq. 3, is a mean over tokens: in
    TRL over the chosen tokens of a device's whole batch, here over each completion's own, the same for one pair.
    `cpo_loss`, Table 5's, has means and a margin in the preference term and beta in the likelihood term.
    """
    scores = beta * policy_logps
    losses = -F.logsigmoid(scores[:, 0] - scores[:, 1]) - sft_weight * policy_logps[:, 0] / completion_tokens[:, 0]
    return losses, scores.detach()
