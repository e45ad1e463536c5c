"""The optimisers, all on PyTorch's interface. The door to bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch.optim import AdamW, Optimizer

if TYPE_CHECKING:
    from torch.nn import Parameter

    from mmpo_train.config import TrialConfig


def build_optimizer(config: TrialConfig, parameters: Iterable[Parameter]) -> Optimizer:
    """AdamW, or its 8-bit variant (Dettmers et al. 2022), with the moments' defaults; the rate is set at every step."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if config.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    return AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
