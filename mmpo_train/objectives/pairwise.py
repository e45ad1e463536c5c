"""Logistic objectives on the score difference of a pair: DPO and SimPO."""

import torch.nn.functional as F
from torch import Tensor


def dpo_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """DPO loss of each pair, with the scores it was computed from.

    loss = -log sigmoid(s_w - s_l), s = beta * (policy_logps - ref_logps)
    (Rafailov et al. 2023; Eq. 9 of the MMPO paper).

    Inputs have shape (B, 2), chosen first, in nats. Losses have shape (B,), scores (B, 2), detached.
    """
    scores = beta * (policy_logps - ref_logps)
    return -F.logsigmoid(scores[:, 0] - scores[:, 1]), scores.detach()


def simpo_loss(
    policy_logps: Tensor, completion_tokens: Tensor, beta: float, gamma_over_beta: float, length_normalised: bool
) -> tuple[Tensor, Tensor]:
    """SimPO loss of each pair, with the scores it was computed from.

    loss = -log sigmoid(s_w - s_l - gamma), s = beta * policy_logps, gamma = gamma_over_beta * beta
    (Eq. 8 of the MMPO paper, which sums over tokens). With `length_normalised`, s = beta * policy_logps / tokens
    (Meng et al. 2024).

    Inputs have shape (B, 2), chosen first, in nats and in tokens. Losses have shape (B,), scores (B, 2), detached.
    """
    scores = beta * policy_logps
    if length_normalised:
        scores = scores / completion_tokens
    return -F.logsigmoid(scores[:, 0] - scores[:, 1] - gamma_over_beta * beta), scores.detach()
