"""Efficient exact optimisation (Ji et al. 2024), as the MC-PO paper's Table 5 prints it and as published.

Inputs have shape (B, 2), chosen first, in nats. Losses have shape (B,), scores (B, 2), detached.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def exo_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """EXO loss of each pair as Table 5 prints it, with the scores s = beta * (policy_logps - ref_logps).

    loss = -sigmoid(s_w) * log sigmoid(s_w) + sigmoid(s_w) * log sigmoid(-s_w) = -s_w * sigmoid(s_w).

    Table 5 defines its logits as the log-ratio of the chosen completion alone: the rejected one is not trained. The
    loss falls with s_w for ever, and it has a maximum at s_w = -1.278, below which descent LOWERS the chosen
    completion. `exo_original_loss` is the publication's, on the difference of both scores.
    """
    scores = beta * (policy_logps - ref_logps)
    return -scores[:, 0] * torch.sigmoid(scores[:, 0]), scores.detach()


def exo_original_loss(
    policy_logps: Tensor, ref_logps: Tensor, beta: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """EXO loss of each pair as published, with the scores s = beta * (policy_logps - ref_logps).

    loss = KL(q || p), q = softmax(s_w, s_l), p = (1 - label_smoothing, label_smoothing)
         = q_w * log(q_w / p_w) + q_l * log(q_l / p_l)
    (EXO-pref, Ji et al. 2024, Eq. 16; TRL's `exo_pair`, where label_smoothing is 1e-3 unless given).

    `exo_loss`, Table 5's, has the chosen completion's log-ratio in place of the difference, no p, and another sign:
    it is no divergence. `label_smoothing` lies strictly between 0 and 1: KL to a certain p is infinite.
    """
    scores = beta * (policy_logps - ref_logps)
    difference = scores[:, 0] - scores[:, 1]
    chosen = torch.sigmoid(difference) * (F.logsigmoid(difference) - math.log1p(-label_smoothing))
    rejected = torch.sigmoid(-difference) * (F.logsigmoid(-difference) - math.log(label_smoothing))
    return chosen + rejected, scores.detach()
