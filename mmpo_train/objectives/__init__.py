"""The objectives by the names that `--objective` takes.

An objective is a pure function of a batch's log-probabilities. The values that it needs from the reference model are
computed before the step, group by group, so that the loss itself sees only tensors and floats. If the MC-PO paper's
Table 5 prints another formula than the method's own publication or its training code, the bare name is the table's and
the other one ends in `_original` (for RPO `_trl`, for APO `_zero` and `_down`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mmpo_train.config import TrialConfig
from mmpo_train.devices import moved
from mmpo_train.objectives.exo import exo_loss, exo_original_loss
from mmpo_train.objectives.mmpo import mean_entropy, mmpo_loss, normalised_rewards, unnormalised_rewards
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
from mmpo_train.typed.plugins import objective_of

Choice = Literal["all", "drawn", "kernel", "max", "min"]


class Batch(NamedTuple):
    """The inputs of a loss, all of shape (B, K), with the chosen completion in column 0."""

    policy_logps: Tensor
    """The policy's log-probabilities, summed over completion tokens, in nats, with gradient."""
    ref_logps: Tensor
    """The reference model's log-probabilities; constants."""
    rewards: Tensor
    """The objective's own constants for each completion; zeros if it has none."""
    completion_tokens: Tensor
    """Numbers of scored tokens."""
    present: Tensor
    """Whether the prompt has this completion; False in the last columns if it has fewer than K."""
    reference_point: float = 0.0
    """Delta of BCO and KTO, in the unit of the scores."""
    entropies: Tensor | None = None
    """Entropies of the policy's distributions at the completion's tokens, summed, in nats. The gradient is that of
    Appendix B.2, P1 and P2: an estimate of the gradient of the entropy of all completions. None in validation."""


def batch_of(
    policy_logps: Tensor,
    ref_logps: np.ndarray,
    rewards: np.ndarray,
    completion_tokens: np.ndarray,
    reference_point: float,
) -> Batch:
    """A batch from arrays of shape (B, K), on the policy's device. Zero tokens mean no completion."""
    ref, own, tokens = (
        moved(torch.from_numpy(values), policy_logps.device) for values in (ref_logps, rewards, completion_tokens)
    )
    return Batch(policy_logps, ref, own, tokens, tokens > 0, reference_point)


@dataclass(frozen=True)
class Objective:
    """A loss, and what must be computed before the step."""

    loss: Callable[[Batch], tuple[Tensor, Tensor]]
    """Batch -> losses (B,) and detached scores (B, K), which reward accuracy compares."""
    rewards: Callable[[Tensor, Tensor], Tensor] | None = None
    """Reference log-probabilities and presence (G, K) of one normalisation group -> constants (G, K)."""
    choice: Choice = "drawn"
    """How a step's completions are chosen from a prompt's (mmpo_train/trial/negatives.py)."""
    chosen_is_candidate: bool = False
    """Whether the chosen completion is among the candidates, too."""
    negatives: int = 1
    """Number of dispreferred completions; not used with `all`."""
    reference_point: Literal["", "mean", "unrelated"] = ""
    """Kind of Delta: BCO's running mean of scores, or KTO's estimate from completions of other prompts."""
    mean_reference: bool = False
    """Whether `rewards` are made of the reference's mean log-probabilities, not of sums."""
    entropies: bool = False
    """Whether the loss uses the batch's entropies in training. Without them it leaves out its entropy term."""

    def of_reference(self, ref_logps: np.ndarray, completion_tokens: np.ndarray) -> np.ndarray:
        """What `rewards` take of the reference's summed log-probabilities, both arrays of shape (N, K)."""
        if not self.mean_reference:
            return ref_logps
        return (ref_logps / np.maximum(completion_tokens, 1)).astype(ref_logps.dtype)


def build_objective(config: TrialConfig) -> Objective:
    """The config's objective with its hyper-parameters bound. The config must have been checked."""
    if config.objective in BUILDERS:
        return BUILDERS[config.objective](config)
    objective: Objective = objective_of(config.objective)(config)
    return objective


def _mmpo(config: TrialConfig) -> Objective:
    rewards = normalised_rewards if config.in_batch_normalised else unnormalised_rewards

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = batch.completion_tokens if config.length_normalised else None
        losses, scores = mmpo_loss(batch.policy_logps, batch.rewards, batch.present, tokens, config.auxiliary)
        if config.entropy and batch.entropies is not None:
            losses = losses - config.beta * mean_entropy(batch.entropies, batch.present)
        return losses, scores

    return Objective(
        loss=loss,
        rewards=lambda ref_logps, present: rewards(ref_logps, config.beta, config.r_eps, present),
        choice="all",
        mean_reference=config.length_normalised and config.reference_length_normalised,
        entropies=config.entropy,
    )


def _simpo(config: TrialConfig) -> Objective:
    hyper = config.beta, config.gamma_over_beta, config.length_normalised
    return Objective(loss=lambda batch: simpo_loss(batch.policy_logps, batch.completion_tokens, *hyper))


def _cpo(config: TrialConfig) -> Objective:
    hyper = config.beta, config.gamma, config.sft_weight
    return Objective(loss=lambda batch: cpo_loss(batch.policy_logps, batch.completion_tokens, *hyper))


def _cpo_original(config: TrialConfig) -> Objective:
    hyper = config.beta, config.sft_weight
    return Objective(loss=lambda batch: cpo_original_loss(batch.policy_logps, batch.completion_tokens, *hyper))


def _rpo_trl(config: TrialConfig) -> Objective:
    hyper = config.beta, config.sft_weight
    return Objective(
        loss=lambda batch: rpo_trl_loss(batch.policy_logps, batch.ref_logps, batch.completion_tokens, *hyper)
    )


def _of_log_ratios(loss: Callable[..., tuple[Tensor, Tensor]], *names: str) -> Callable[[TrialConfig], Objective]:
    """A builder for a loss of policy and reference log-probabilities and of the config's fields `names`."""

    def build(config: TrialConfig) -> Objective:
        hyper = {name: getattr(config, name) for name in names}
        return Objective(loss=lambda batch: loss(batch.policy_logps, batch.ref_logps, **hyper))

    return build


def _with_reference_point(
    loss: Callable[..., tuple[Tensor, Tensor]], kind: Literal["mean", "unrelated"], *names: str
) -> Callable[[TrialConfig], Objective]:
    """A builder for such a loss with Delta."""

    def build(config: TrialConfig) -> Objective:
        hyper = {name: getattr(config, name) for name in names}
        return Objective(
            loss=lambda batch: loss(batch.policy_logps, batch.ref_logps, delta=batch.reference_point, **hyper),
            reference_point=kind,
        )

    return build


def _ranking_nce(choice: Literal["drawn", ""]) -> Callable[[TrialConfig], Objective]:
    """A builder for Eq. 7 on completions drawn at random, or as the config's `negative_choice` says."""

    def build(config: TrialConfig) -> Objective:
        return Objective(
            loss=lambda batch: ranking_nce_loss(batch.policy_logps, batch.ref_logps, config.beta, batch.present),
            choice=choice or cast(Choice, config.negative_choice),
            chosen_is_candidate=not choice and config.chosen_is_candidate,
            negatives=config.negatives,
        )

    return build


BUILDERS: dict[str, Callable[[TrialConfig], Objective]] = {
    "mmpo": _mmpo,
    "dpo": _of_log_ratios(dpo_loss, "beta"),
    "simpo": _simpo,
    "rpo": _of_log_ratios(rpo_loss, "beta", "sft_weight"),
    "rpo_trl": _rpo_trl,
    "exo": _of_log_ratios(exo_loss, "beta"),
    "exo_original": _of_log_ratios(exo_original_loss, "beta", "label_smoothing"),
    "cpo": _cpo,
    "cpo_original": _cpo_original,
    "bco": _with_reference_point(bco_loss, "mean", "beta"),
    "bco_original": _with_reference_point(bco_original_loss, "mean", "beta"),
    "kto": _with_reference_point(kto_loss, "unrelated", "beta"),
    "kto_original": _with_reference_point(
        kto_original_loss, "unrelated", "beta", "desirable_weight", "undesirable_weight"
    ),
    "apo": _of_log_ratios(apo_loss, "beta"),
    "apo_zero": _of_log_ratios(apo_zero_loss, "beta"),
    "apo_down": _of_log_ratios(apo_down_loss, "beta"),
    "sppo": _of_log_ratios(sppo_loss, "beta"),
    "nca": _of_log_ratios(nca_loss, "beta"),
    "rnce": _ranking_nce("drawn"),
    "mc_po": _ranking_nce(""),
    "on_mc_po": _ranking_nce(""),
    "online_dpo": _of_log_ratios(dpo_loss, "beta"),
}
