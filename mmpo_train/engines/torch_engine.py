"""The plain engine: one process, without DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmpo_train.engines import training_state
from mmpo_train.engines.engine import (
    bytes_of_moments,
    let_go_of_backward,
    memory_share,
    set_learning_rate,
    whole_parameters,
)
from mmpo_train.engines.optimizers import build_optimizer
from mmpo_train.model.logps import CompletionLogps, Pass

if TYPE_CHECKING:
    from mmpo_train.config import TrialConfig


class TorchEngine:
    """One process, no distribution: `python -m mmpo_train`, and the peer that other engines are tested against."""

    worker, workers = 0, 1

    def __init__(self, module: CompletionLogps, config: TrialConfig) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.to(self.device)
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(config, self.parameters)
        self.max_gradient_norm = config.max_gradient_norm or float("inf")
        self.bf16 = config.precision == "bf16"

    def logps(self, one: Pass, entropies: bool = False) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.module(one.to(self.device), entropies)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_gradient_norm)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values

    def model_state(self) -> None:
        return None

    def save_state(self, folder: Path) -> None:
        training_state.save(folder, whole_parameters(self.module, self.optimizer))

    def load_state(self, folder: Path) -> None:
        training_state.load(folder, whole_parameters(self.module, self.optimizer))

    def barrier(self) -> None:
        return None

    def discard(self) -> bool:
        self.optimizer.zero_grad(set_to_none=True)
        let_go_of_backward(self.device)
        return True

    def recompute_activations(self, wanted: bool) -> None:
        self.module.recompute_activations(wanted)

    def memory_share(self) -> float | None:
        return memory_share(self.device, 0 if self.optimizer.state else bytes_of_moments(self.optimizer))
