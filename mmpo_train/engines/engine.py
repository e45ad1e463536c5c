"""What the training loop needs of whatever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mmpo_train.engines.training_state import Share, Shares
from mmpo_train.model.logps import Pass


class Engine(Protocol):
    """A model with its optimiser, on one worker of possibly several."""

    worker: int
    """This worker's number, from 0."""
    workers: int

    def logps(self, one: Pass, entropies: bool = False) -> Tensor:
        """Log-probabilities (C,) of a pass, on the CPU or the accelerator, with gradient where that is enabled.

        With `entropies` the (3, C) of `CompletionLogps`.
        """

    def backward(self, loss: Tensor) -> None:
        """Add this worker's share of the loss to the gradient. Gradients are summed over passes and workers."""

    def step(self, learning_rate: float) -> float | None:
        """Clip, update, clear the gradient. Returns the gradient's 2-norm before clipping, None where it is unknown.

        Every worker calls it.
        """

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of the workers' arrays, the same on all of them."""

    def model_state(self) -> dict[str, Tensor] | None:
        """The whole model's weights on worker 0 where they are spread over workers; None where the model holds them."""

    def save_state(self, folder: Path) -> None:
        """Write what `load_state` needs to go on exactly; every worker calls it with the same staged folder."""

    def load_state(self, folder: Path) -> None:
        """The inverse, from a verified folder that any engine wrote on any number of workers. Every worker calls it."""

    def barrier(self) -> None:
        """Return when every worker is here."""

    def discard(self) -> bool:
        """Forget the gradient and the memory of a step that broke off; False where that cannot be done."""

    def recompute_activations(self, wanted: bool) -> None:
        """Trade time for memory in the passes to come, or no longer."""

    def memory_share(self) -> float | None:
        """The largest share of the accelerator's memory that was in use since the last call; None on a CPU."""


def first_workers(engine: Engine, find: Callable[[], int]) -> int:
    """What worker 0 finds, on all of them: on a shared file system the others may see a folder a moment later."""
    found = find() if engine.worker == 0 else 0
    return int(engine.sum(np.array([found], dtype=np.float64))[0])


def sum_of_arrays(values: np.ndarray, device: torch.device) -> np.ndarray:
    """`Engine.sum` of several workers."""
    tensor = torch.as_tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.cpu().numpy()


def whole_parameters(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, masters: Sequence[Tensor], writes: bool = True
) -> Shares:
    """The shares of a worker whose optimiser steps all trained parameters, or their `masters` in the same order."""
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    shares = {name: Share(number, 0, 0, value.numel()) for number, (name, value) in enumerate(trained.items())}
    shapes = {name: value.shape for name, value in trained.items()}
    return Shares(optimizer, masters, shapes, shares, writes)


def let_go_of_backward(device: torch.device) -> None:
    """Free what a broken-off backward pass holds."""
    # On a CPU autograd keeps what was still to do until the next backward pass begins.
    torch.zeros((), requires_grad=True).backward()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory_share(device: torch.device, still_to_come: int = 0) -> float | None:
    """`Engine.memory_share`; `still_to_come` bytes are counted on top."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device) + still_to_come
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return (peak + others) / total


def bytes_of_moments(optimizer: torch.optim.Optimizer) -> int:
    """What an optimiser that has not stepped will take: two fp32 moments a weight, or as many bytes in 8 bits."""
    of_each = 8 if isinstance(optimizer, torch.optim.AdamW) else 2
    return of_each * sum(weight.numel() for group in optimizer.param_groups for weight in group["params"])


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """One rate for all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
