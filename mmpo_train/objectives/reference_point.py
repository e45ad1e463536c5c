"""Delta of BCO and KTO: the score from which a completion counts as good, computed outside the loss."""

from typing import NamedTuple

from torch import Tensor


class RunningMean(NamedTuple):
    """Mean of the steps' means so far, BCO's Delta: each step counts once, however many scores it has.

    Jung et al. 2024 want the mean score over chosen and rejected completions; TRL, while it had it, updated with the
    step's own scores before using it. Serialises as [mean, steps]; `RunningMean(*values)` reads it back.
    """

    mean: float = 0.0
    steps: int = 0

    def update(self, mean: float) -> "RunningMean":
        """The running mean with one more step, whose mean score over chosen and rejected is `mean`."""
        steps = self.steps + 1
        return RunningMean(self.mean + (mean - self.mean) / steps, steps)


def kl_reference_point(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> float:
    """KTO's Delta: beta * max(0, mean(policy_logps - ref_logps)) (Ethayarajh et al. 2024; TRL's KTOTrainer).

    Both of shape (B,), in nats, of completions that belong to OTHER prompts; on the prompts' own completions the mean
    would be the reward itself. TRL clamps before it multiplies by beta: the same. No gradient flows.
    """
    return beta * max(0.0, (policy_logps.detach().double() - ref_logps.double()).mean().item())
