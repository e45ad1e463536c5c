"""The plain engine: every worker holds the whole model and steps it, without DeepSpeed."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mmpo_train.config import TrialConfig
from mmpo_train.devices import own_device
from mmpo_train.engines import training_state
from mmpo_train.engines.engine import (
    bytes_of_moments,
    let_go_of_backward,
    memory_share,
    set_learning_rate,
    sum_of_arrays,
    whole_parameters,
)
from mmpo_train.engines.masters import Masters
from mmpo_train.engines.optimizers import build_optimizer
from mmpo_train.engines.training_state import Shares
from mmpo_train.model.logps import CompletionLogps, Pass
from mmpo_train.model.precision import gather_gradients_in_fp32, round_weights


class TorchEngine:
    """One process, or the workers of torch.distributed where that is set up: `mmpo train`, trials without
    ZeRO, and the peer that DeepSpeed is tested against.

    In bf16 weights are bf16 and have fp32 masters, as under DeepSpeed; gradients are fp32.
    """

    def __init__(self, module: CompletionLogps, config: TrialConfig) -> None:
        self.worker, self.workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.device = own_device()
        self.module = module.to(self.device)
        round_weights(module, config.precision)
        gather_gradients_in_fp32(module)
        self.masters = Masters(parameter for parameter in module.parameters() if parameter.requires_grad)
        self.optimizer = build_optimizer(config, self.masters.tensors)
        self.max_gradient_norm = config.max_gradient_norm or float("inf")

    def logps(self, one: Pass, entropies: bool = False) -> Tensor:
        logps: Tensor = self.module(one.to(self.device), entropies)
        return logps

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        self.masters.take_gradients()
        if self.workers > 1:
            self.masters.sum_over_workers()
        norm = torch.nn.utils.clip_grad_norm_(self.masters.tensors, self.max_gradient_norm)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.masters.give_weights()
        self.masters.forget_gradients()
        return float(norm)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return sum_of_arrays(values, self.device) if self.workers > 1 else values

    def model_state(self) -> None:
        return None

    def save_state(self, folder: Path) -> None:
        training_state.save(folder, self._shares())

    def load_state(self, folder: Path) -> None:
        training_state.load(folder, self._shares())
        self.masters.give_weights()

    def _shares(self) -> Shares:
        return whole_parameters(self.module, self.optimizer, self.masters.tensors, writes=self.worker == 0)

    def barrier(self) -> None:
        if self.workers > 1:
            dist.barrier()

    def discard(self) -> bool:
        if self.workers > 1:  # the others wait for this one in a collective operation
            return False
        self.masters.forget_gradients()
        let_go_of_backward(self.device)
        return True

    def recompute_activations(self, wanted: bool) -> None:
        self.module.recompute_activations(wanted)

    def compile_layers(self, wanted: bool) -> None:
        self.module.compile_layers(wanted)

    def memory_share(self) -> float | None:
        return memory_share(self.device, 0 if self.optimizer.state else bytes_of_moments(self.optimizer))
