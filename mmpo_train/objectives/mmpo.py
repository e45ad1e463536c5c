"""Maximum-marginal-likelihood preference optimisation (Najafi & Fyshe 2025), and its ablations (Section 5)."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Listing 1 adds a bare 0.1 to the rejected completion's reward. With r_eps below it the intended order is reversed.
REJECTED_REWARD = 0.1
_EPSILON = 1e-6


def normalised_rewards(ref_logps: Tensor, beta: float, r_eps: float, present: Tensor | None = None) -> Tensor:
    """Rewards R(y, z) of one normalisation group, scaled to (0, 1] by the group's extremes (Section 3.3, Listing 1).

    R_w = r_eps + beta * ref_w, R_l = 0.1 + beta * ref_l; (R + 1e-6 - min) / (max + 1e-6 - min), where min and max
    range over all rewards of the group. `ref_logps` has shape (B, K), chosen first, in nats; so has the result. The
    paper has K = 2; with more, every rejected completion gets the 0.1. Where `present` (B, K) is False there is no
    completion: it counts for neither extreme and its reward is 0. No policy term takes part: the rewards are
    constants of the step.
    """
    rewards = _rewards(ref_logps, beta, r_eps)
    there = rewards if present is None else rewards[present]
    low, high = there.min(), there.max()
    normalised = ((rewards + _EPSILON - low) / (high + _EPSILON - low)).float()
    return normalised if present is None else torch.where(present, normalised, 0.0)


def unnormalised_rewards(ref_logps: Tensor, beta: float, r_eps: float, present: Tensor | None = None) -> Tensor:
    """The rewards without scaling, in nats: R_w = r_eps + beta * ref_w, R_l = 0.1 + beta * ref_l.

    The ablation of in-batch normalisation (Section 5), "relying solely on the unnormalized scores": each completion's
    reward does not depend on the group. With the auxiliary term and K = 2 it changes the scores but no gradient: the
    loss is -s_w, in which the reward is a constant. Shapes as in `normalised_rewards`; absent completions get 0.
    """
    rewards = _rewards(ref_logps, beta, r_eps).float()
    return rewards if present is None else torch.where(present, rewards, 0.0)


def _rewards(ref_logps: Tensor, beta: float, r_eps: float) -> Tensor:
    margins = torch.full(ref_logps.shape[1:], REJECTED_REWARD, dtype=torch.float64, device=ref_logps.device)
    margins[0] = r_eps
    # float64: beta * ref_logps is hundreds of nats, the differences that matter are below one.
    return margins + beta * ref_logps.double()


def mmpo_loss(
    policy_logps: Tensor,
    rewards: Tensor,
    present: Tensor | None = None,
    completion_tokens: Tensor | None = None,
    auxiliary: bool = True,
) -> tuple[Tensor, Tensor]:
    """MMPO loss of each example, with the scores from which it was computed.

    loss = -logsumexp_k(s_k) - mean_l(log sigmoid(s_w - s_l)), s = logps + normalised reward; k ranges over all
    completions (Eq. 4), l over the rejected ones. With K = 2 this is Listing 1 (Section 3.3).

    The first term's gradient weighs completion k by softmax_k(s), for K = 2 sigmoid(s_w - s_l) and
    sigmoid(s_l - s_w) (Theorem 3.2); the second is the DPO-style auxiliary term. For K = 2 their sum is -s_w: the
    logarithms cancel, so that as published only the chosen completion is trained, and beta, r_eps and the groups act
    on the scores alone. For K > 2, which the paper does not define, they do not cancel: the gradient of s_l is
    sigmoid(s_l - s_w) / (K - 1) - softmax_l(s), which is negative for rejected completions of equal scores. Descent
    then RAISES the rejected ones, too.

    Two ablations (Section 5) are made here. Without `auxiliary` the loss is the first term alone: Theorem 3.2's weights
    hold, the rejected completions are raised as well, and beta, r_eps and the groups act on the gradient. Given
    `completion_tokens`, s = logps / tokens + reward: "the average log-probability per token" of what is optimised, the
    policy. The rewards stay as they are, made of the reference's sums, whose scale in-batch normalisation removes.
    Means are a few nats, so that rewards in (0, 1] weigh more beside them than beside sums; unnormalised rewards drown
    them. For K = 2 with the auxiliary term the loss is -s_w all the same.

    Inputs have shape (B, K), chosen first, in nats and in tokens; entries where `present` is False take no part,
    whatever their value, and have score 0. Losses have shape (B,), scores (B, K), detached.
    """
    # At least 1: absent completions have no tokens, and the gradient of a quotient by 0 is nan.
    values = policy_logps if completion_tokens is None else policy_logps / completion_tokens.clamp(min=1)
    scores = values + rewards
    if present is None:
        present = torch.ones_like(scores, dtype=torch.bool)
    # Zeros first, -inf second: a gradient through an absent entry's own value could be nan.
    scores = torch.where(present, scores, 0.0)
    marginal = torch.logsumexp(scores.masked_fill(~present, -torch.inf), dim=1)
    if not auxiliary:
        return -marginal, scores.detach()
    rejected = present[:, 1:]
    ranked = F.logsigmoid(scores[:, :1] - scores[:, 1:]).where(rejected, 0.0)
    return -marginal - ranked.sum(dim=1) / rejected.sum(dim=1).clamp(min=1), scores.detach()


def mean_entropy(entropies: Tensor, present: Tensor) -> Tensor:
    """Each example's mean entropy over its completions, (B,), in nats; the loss subtracts beta times it (Section 5).

    Appendix B.2 averages over the mini-batch's |B| text completions: for pairs, the mean over examples of these means.
    With more, and not equally many, completions each prompt counts once, as in the rest of the loss. `entropies` (B, K)
    are sums over tokens, also where scores are means; entries where `present` is False take no part. The paper takes
    the data's completions as samples of the policy; as far as they are not, the gradient is not that of its entropy.
    """
    return entropies.where(present, 0.0).sum(dim=1) / present.sum(dim=1)
