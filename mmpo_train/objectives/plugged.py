"""Objectives of plug-ins, tried before anything is started."""

from collections.abc import Iterable

import numpy as np
import torch

from mmpo_train.config import TrialConfig, replace
from mmpo_train.errors import InputError, in_brief
from mmpo_train.objectives import Objective, batch_of, build_objective
from mmpo_train.typed.plugins import load


def load_and_try(sources: Iterable[str]) -> None:
    """Load plug-ins, as `plugins.load`, and try each of their objectives. Raises InputError for one that fails."""
    for name in load(sources):
        try:
            _try(replace(TrialConfig(), {"objective": name}))
        except Exception as error:  # whatever a person's code raises
            raise InputError(
                f"objective {name} of a plug-in fails on a batch of two pairs: {in_brief(error)}"
            ) from error


def _try(config: TrialConfig) -> None:
    """Raises unless losses (B,) and scores (B, K) are finite, and the losses have a gradient."""
    objective = build_objective(config)
    if not isinstance(objective, Objective):
        raise TypeError(f"its builder returned {type(objective).__name__}, expected mmpo_train.objectives.Objective")
    logps = torch.tensor([[-3.0, -4.0], [-6.0, -5.0]], requires_grad=True)
    ref, present = torch.tensor([[-3.5, -3.5], [-5.5, -5.5]]), torch.ones(2, 2, dtype=torch.bool)
    rewards = objective.rewards(ref, present) if objective.rewards else torch.zeros(2, 2)
    losses, scores = objective.loss(batch_of(logps, ref.numpy(), rewards.numpy(), np.full((2, 2), 5), 0.0))
    if losses.shape != (2,) or scores.shape != (2, 2):
        raise ValueError(f"losses {tuple(losses.shape)}, scores {tuple(scores.shape)}; expected (2,) and (2, 2)")
    losses.sum().backward()
    if logps.grad is None or not all(torch.isfinite(one).all() for one in (losses, scores, logps.grad)):
        raise ValueError("losses, scores or gradient are missing or not finite")
