"""The objectives by the names that `--objective` takes.

An objective is a pure function of a batch's log-probabilities. The values that it needs from the reference model are
computed before the step, group by group, so that the loss itself sees only tensors and floats. If the MC-PO paper's
Table 5 prints another formula than the method's own publication or its training code, the bare name is the table's and
the other one ends in `_original` (for RPO `_trl`, for APO `_zero` and `_down`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mmpo_train.config import TrialConfig
from mmpo_train.devices import moved
from mmpo_train.objectives import exo, mmpo, pairwise, pointwise, ranking
from mmpo_train.typed.plugins import objective_of

Choice = Literal["all", "drawn", "kernel", "max", "min"]
Delta = Literal["", "mean", "unrelated"]


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
    reference_point: Delta = ""
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


Loss = Callable[..., tuple[Tensor, Tensor]]
Build = Callable[[TrialConfig], Objective]


def build_objective(config: TrialConfig) -> Objective:
    """The config's objective with its hyper-parameters bound. The config must have been checked."""
    build = BUILDERS.get(config.objective) or objective_of(config.objective)
    return build(config)


def _mmpo(config: TrialConfig) -> Objective:
    rewards = mmpo.normalised_rewards if config.in_batch_normalised else mmpo.unnormalised_rewards

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        tokens = batch.completion_tokens if config.length_normalised else None
        losses, scores = mmpo.mmpo_loss(batch.policy_logps, batch.rewards, batch.present, tokens, config.auxiliary)
        if config.entropy and batch.entropies is not None:
            losses = losses - config.beta * mmpo.mean_entropy(batch.entropies, batch.present)
        return losses, scores

    return Objective(
        loss=loss,
        rewards=lambda ref_logps, present: rewards(ref_logps, config.beta, config.r_eps, present),
        choice="all",
        mean_reference=config.length_normalised and config.reference_length_normalised,
        entropies=config.entropy,
    )


def _of(loss: Loss, inputs: Sequence[str], *names: str, delta: Delta = "") -> Build:
    """A builder for a loss of some of a batch's `inputs` and the config's fields `names`; by `delta` also of
    the reference point."""

    def build(config: TrialConfig) -> Objective:
        hyper = {name: getattr(config, name) for name in names}

        def of_batch(batch: Batch) -> tuple[Tensor, Tensor]:
            point = {"delta": batch.reference_point} if delta else {}
            return loss(*(getattr(batch, name) for name in inputs), **hyper, **point)

        return Objective(loss=of_batch, reference_point=delta)

    return build


def _ranking_nce(choice: Literal["drawn", ""]) -> Build:
    """A builder for Eq. 7 on completions drawn at random, or as the config's `negative_choice` says."""

    def build(config: TrialConfig) -> Objective:
        return Objective(
            loss=lambda batch: ranking.ranking_nce_loss(
                batch.policy_logps, batch.ref_logps, config.beta, batch.present
            ),
            choice=choice or cast(Choice, config.negative_choice),
            chosen_is_candidate=not choice and config.chosen_is_candidate,
            negatives=config.negatives,
        )

    return build


_RATIOS, _MEANS = ("policy_logps", "ref_logps"), ("policy_logps", "completion_tokens")
BUILDERS: dict[str, Build] = {
    "mmpo": _mmpo,
    "dpo": _of(pairwise.dpo_loss, _RATIOS, "beta"),
    "simpo": _of(pairwise.simpo_loss, _MEANS, "beta", "gamma_over_beta", "length_normalised"),
    "rpo": _of(pairwise.rpo_loss, _RATIOS, "beta", "sft_weight"),
    "rpo_trl": _of(pairwise.rpo_trl_loss, (*_RATIOS, "completion_tokens"), "beta", "sft_weight"),
    "exo": _of(exo.exo_loss, _RATIOS, "beta"),
    "exo_original": _of(exo.exo_original_loss, _RATIOS, "beta", "label_smoothing"),
    "cpo": _of(pairwise.cpo_loss, _MEANS, "beta", "gamma", "sft_weight"),
    "cpo_original": _of(pairwise.cpo_original_loss, _MEANS, "beta", "sft_weight"),
    "bco": _of(pointwise.bco_loss, _RATIOS, "beta", delta="mean"),
    "bco_original": _of(pointwise.bco_original_loss, _RATIOS, "beta", delta="mean"),
    "kto": _of(pointwise.kto_loss, _RATIOS, "beta", delta="unrelated"),
    "kto_original": _of(
        pointwise.kto_original_loss, _RATIOS, "beta", "desirable_weight", "undesirable_weight", delta="unrelated"
    ),
    "apo": _of(pointwise.apo_loss, _RATIOS, "beta"),
    "apo_zero": _of(pointwise.apo_zero_loss, _RATIOS, "beta"),
    "apo_down": _of(pointwise.apo_down_loss, _RATIOS, "beta"),
    "sppo": _of(pointwise.sppo_loss, _RATIOS, "beta"),
    "nca": _of(pointwise.nca_loss, _RATIOS, "beta"),
    "rnce": _ranking_nce("drawn"),
    "mc_po": _ranking_nce(""),
    "on_mc_po": _ranking_nce(""),
    "online_dpo": _of(pairwise.dpo_loss, _RATIOS, "beta"),
}
