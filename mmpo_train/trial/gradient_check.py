"""Whether trials that are declared to be one training have the same gradient, on data."""

from collections.abc import Sequence

import numpy as np
import torch

from mmpo_train.config import TrialConfig
from mmpo_train.model.batches import group_rewards
from mmpo_train.objectives import batch_of, build_objective

TOLERANCE = 2e-12
"""Rounding in float64 of a gradient whose entries are of the order of 1, at scores of some thousand nats. It grows
with the scores: at ten nats it is 4e-15."""


def loss_gradient(
    config: TrialConfig, policy_logps: np.ndarray, ref_logps: np.ndarray, tokens: np.ndarray, entropies: np.ndarray
) -> np.ndarray:
    """The gradient of the summed loss on the policy's log-probabilities and entropies, (2, N, K), in float64.

    All arrays have shape (N, K), with zero tokens for no completion. The prompts are in the order of training.
    Objectives that choose among candidates are given those they have chosen.
    """
    objective = build_objective(config)
    groups = config.pairs_per_group, objective.rewards
    reference = objective.of_reference(ref_logps, tokens)
    rewards = group_rewards(reference, tokens > 0, np.arange(len(ref_logps)), *groups)
    leaves = torch.tensor(np.stack([policy_logps, entropies]), dtype=torch.float64, requires_grad=True)
    batch = batch_of(leaves[0], ref_logps.astype(np.float64), rewards.astype(np.float64), tokens, 0.0)
    losses, _ = objective.loss(batch._replace(entropies=leaves[1] if objective.entropies else None))
    [gradient] = torch.autograd.grad(losses.sum(), leaves)
    return gradient.numpy()


def largest_difference(configs: Sequence[TrialConfig], ref_logps: np.ndarray, tokens: np.ndarray) -> float:
    """The largest difference between the configs' gradients, at a policy some nats away from the reference. `ref_logps`
    and `tokens` (N, K) are those of training prompts."""
    random = np.random.default_rng(0)
    policy = ref_logps + random.normal(0.0, 3.0, ref_logps.shape) * (tokens > 0)
    entropies = random.uniform(1.0, 50.0, ref_logps.shape)
    first, *others = (loss_gradient(one, policy, ref_logps, tokens, entropies) for one in configs)
    return max((float(np.abs(one - first).max(initial=0.0)) for one in others), default=0.0)
