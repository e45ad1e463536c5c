"""Maximum-marginal-likelihood preference optimisation (Najafi & Fyshe 2025)."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Listing 1 adds a bare 0.1 to the rejected completion's reward. With r_eps below it the intended order is reversed.
REJECTED_REWARD = 0.1
_EPSILON = 1e-6


def normalised_rewards(ref_logps: Tensor, beta: float, r_eps: float) -> Tensor:
    """Rewards R(y, z) of one normalisation group, scaled to (0, 1] by the group's extremes (Section 3.3, Listing 1).

    R_w = r_eps + beta * ref_w, R_l = 0.1 + beta * ref_l; (R + 1e-6 - min) / (max + 1e-6 - min), where min and max
    range over all rewards of the group. `ref_logps` has shape (B, 2), in nats; so has the result. No policy
    term takes part: the rewards are constants of the step.
    """
    margins = torch.tensor([r_eps, REJECTED_REWARD], dtype=torch.float64)
    # float64: beta * ref_logps is hundreds of nats, the differences that matter are below one.
    rewards = margins + beta * ref_logps.double()
    low, high = rewards.min(), rewards.max()
    return ((rewards + _EPSILON - low) / (high + _EPSILON - low)).float()


def mmpo_loss(policy_logps: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """MMPO loss of each pair, with the scores it was computed from.

    loss = -logsumexp(s_w, s_l) - log sigmoid(s_w - s_l), s = logps + normalised reward
    (Section 3.3, Listing 1). The first term's gradient weighs the two completions by sigmoid(s_w - s_l) and
    sigmoid(s_l - s_w) (Theorem 3.2); the second is the DPO-style auxiliary term. Their sum is -s_w: the logarithms
    cancel, so that as published only the chosen completion is trained, and beta, r_eps and the groups act on the
    scores alone.

    Both inputs have shape (B, 2), chosen first, in nats. Losses have shape (B,), scores (B, 2), detached.
    """
    scores = policy_logps + rewards
    losses = -torch.logsumexp(scores, dim=1) - F.logsigmoid(scores[:, 0] - scores[:, 1])
    return losses, scores.detach()
