"""Metrics of scored pairs: reward accuracy and others, and MMPO's diagnostics."""

from dataclasses import dataclass

import numpy as np
import torch

from mmpo_train.config import TrialConfig, replace
from mmpo_train.model.batches import group_rewards
from mmpo_train.objectives import batch_of, build_objective
from mmpo_train.objectives.mmpo import REJECTED_REWARD

SATURATED_NATS = 5.0
"""Beyond this score difference sigmoid(s_l - s_w) is below 0.7% (or above 99.3%), and the pair teaches nothing more."""


@dataclass(frozen=True)
class Validation:
    """Results of the validation pairs under one policy."""

    metrics: dict[str, float]
    """reward_accuracy and the others, by name without group."""
    correct: list[int]
    """For each pair, in dataset order, 1 if the chosen score exceeds the rejected one, otherwise 0."""


def validate(
    config: TrialConfig,
    policy_logps: np.ndarray,
    ref_logps: np.ndarray,
    completion_tokens: np.ndarray,
    reference_point: float = 0.0,
) -> Validation:
    """Metrics of the validation pairs in dataset order; all arrays have shape (N, 2), in nats and tokens.

    `reward_accuracy` is the share of pairs whose chosen score exceeds the rejected score, by the objective's own
    score (Appendix B.1): MMPO s_w and s_l with groups of consecutive pairs, DPO beta * log-ratio, SimPO
    beta * logp. Equal scores are not correct. `policy_accuracy` (plain logp) and `logratio_accuracy` compare
    across objectives. `reference_point` is the trial's present one (BCO, KTO), on which the loss depends. The loss has
    no entropy term, even if the trial is trained with one, since only log-probabilities are known here.
    """
    order = np.arange(len(ref_logps))
    objective = build_objective(config)
    present = completion_tokens > 0
    reference = objective.of_reference(ref_logps, completion_tokens)
    rewards = group_rewards(reference, present, order, config.pairs_per_group, objective.rewards)
    batch = batch_of(torch.from_numpy(policy_logps), ref_logps, rewards, completion_tokens, reference_point)
    losses, scores = objective.loss(batch)
    won = (scores[:, 0] > scores[:, 1]).numpy()
    margins = (scores[:, 0] - scores[:, 1]).double().numpy()
    ratios = policy_logps - ref_logps
    metrics = {
        "loss": float(losses.mean()),
        "reward_accuracy": float(won.mean()),
        "policy_accuracy": float((policy_logps[:, 0] > policy_logps[:, 1]).mean()),
        "logratio_accuracy": float((ratios[:, 0] > ratios[:, 1]).mean()),
        "reward_margin": float(margins.mean()),
        "chosen_logps": float(policy_logps[:, 0].mean()),
        "rejected_logps": float(policy_logps[:, 1].mean()),
    }
    first, second = completion_tokens[:, 0], completion_tokens[:, 1]
    longer, shorter = first > second, first < second
    for name, some in (("accuracy_chosen_longer", longer), ("accuracy_chosen_shorter", shorter)):
        if some.any():
            metrics[name] = float(won[some].mean())
    if config.objective == "mmpo":
        metrics |= mmpo_diagnostics(margins) | {"r_eps_shift": _r_eps_shift(config, reference, rewards, order)}
    return Validation(metrics, won.astype(int).tolist())


def mmpo_diagnostics(margins: np.ndarray) -> dict[str, float]:
    """The gradient's share on the rejected answers (Theorem 3.2), and saturation, of score differences (N,)."""
    return {
        "rejected_weight": float((1 / (1 + np.exp(np.clip(margins, -500, 500)))).mean()),
        "saturated_share": float((np.abs(margins) > SATURATED_NATS).mean()),
    }


def _r_eps_shift(config: TrialConfig, reference: np.ndarray, rewards: np.ndarray, order: np.ndarray) -> float:
    """Mean shift of s_w - s_l by r_eps, in nats, compared with equal target rewards of both completions. Without
    in-batch normalisation it is r_eps - 0.1."""
    neutral = build_objective(replace(config, {"r_eps": REJECTED_REWARD})).rewards
    everything = np.ones(reference.shape, dtype=bool)
    without = group_rewards(reference, everything, order, config.pairs_per_group, neutral)
    return float(((rewards[:, 0] - rewards[:, 1]) - (without[:, 0] - without[:, 1])).mean())
