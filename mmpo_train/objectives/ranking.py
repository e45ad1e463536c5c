"""The multi-negative objective of the MC-PO paper (Chen et al. 2025), which RNCE and MC-PO share (Lemma 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ranking_nce_loss(
    policy_logps: Tensor, ref_logps: Tensor, beta: float, present: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ranking noise-contrastive loss of each example, with the scores it was computed from.

    loss = -s_0 + log sum_i exp(s_i), s = beta * (policy_logps - ref_logps)
    (Eq. 7; Table 5's MC-PO): the cross-entropy of picking the preferred completion among all. RNCE and MC-PO differ
    in which dispreferred completions they are given. With one of them it is `dpo_loss`, to the last bit (Section 2.3).

    Inputs have shape (B, K), preferred first, in nats. Where `present` is False there is no completion: whatever its
    value, it takes no part, its gradient and its score are 0. Without any dispreferred completion the loss is 0.
    Losses have shape (B,), scores (B, K), detached.
    """
    log_ratios = policy_logps - ref_logps
    if present is None:
        present = torch.ones_like(log_ratios, dtype=torch.bool)
    # Zeros first, -inf second: a gradient through an absent entry's own value could be nan.
    scores = beta * torch.where(present, log_ratios, 0.0)
    # Differences before exponentials: -s_0 + logsumexp(s) of scores in the thousands cancels to noise in fp32.
    behind = (scores[:, 1:] - scores[:, :1]).masked_fill(~present[:, 1:], -torch.inf)
    return -F.logsigmoid(-torch.logsumexp(behind, dim=1)), scores.detach()
