"""The objectives by name: what `--objective NAME` trains with.

An objective is a pure function of a batch's log-probabilities. What it needs of the reference model is computed
before the step, group by group, so that the loss itself sees only tensors and floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from mmpo_train.config import TrialConfig
from mmpo_train.objectives.mmpo import mmpo_loss, normalised_rewards
from mmpo_train.objectives.pairwise import dpo_loss, simpo_loss


class Batch(NamedTuple):
    """What a loss may look at: all of shape (B, K), the chosen completion in column 0."""

    policy_logps: Tensor
    """Sums over completion tokens, in nats, with gradient."""
    ref_logps: Tensor
    """The same of the reference model; constants."""
    rewards: Tensor
    """The objective's own constants for each completion; zeros where it has none."""
    completion_tokens: Tensor
    """Scored tokens."""


@dataclass(frozen=True)
class Objective:
    """A loss with what it needs computed before the step."""

    loss: Callable[[Batch], tuple[Tensor, Tensor]]
    """Batch -> losses (B,) and detached scores (B, K), which reward accuracy compares."""
    rewards: Callable[[Tensor], Tensor] | None = None
    """Reference log-probabilities (G, K) of one normalisation group -> constants (G, K)."""


def build_objective(config: TrialConfig) -> Objective:
    """The config's objective with its hyper-parameters bound. The config has been checked already."""
    return BUILDERS[config.objective](config)


def _mmpo(config: TrialConfig) -> Objective:
    return Objective(
        loss=lambda batch: mmpo_loss(batch.policy_logps, batch.rewards),
        rewards=partial(normalised_rewards, beta=config.beta, r_eps=config.r_eps),
    )


def _dpo(config: TrialConfig) -> Objective:
    return Objective(loss=lambda batch: dpo_loss(batch.policy_logps, batch.ref_logps, config.beta))


def _simpo(config: TrialConfig) -> Objective:
    return Objective(
        loss=lambda batch: simpo_loss(
            batch.policy_logps,
            batch.completion_tokens,
            config.beta,
            config.gamma_over_beta,
            config.length_normalised,
        )
    )


BUILDERS: dict[str, Callable[[TrialConfig], Objective]] = {"mmpo": _mmpo, "dpo": _dpo, "simpo": _simpo}
