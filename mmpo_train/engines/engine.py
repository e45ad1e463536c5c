"""The interface of an engine, which runs the model for the training loop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mmpo_train.engines.training_state import Share, Shares
from mmpo_train.model.logps import CompletionLogps, Pass


class Engine(Protocol):
    """A model with its optimiser, on one of one or several workers."""

    worker: int
    """This worker's number, from 0."""
    workers: int
    module: CompletionLogps

    def logps(self, one: Pass, entropies: bool = False) -> Tensor:
        """Log-probabilities (C,) of a pass, on the CPU or the accelerator, with gradient if that is enabled. With
        `entropies` the result is (3, C), as in `CompletionLogps`."""

    def backward(self, loss: Tensor) -> None:
        """Add this worker's share of the loss to the gradient. Gradients are summed over passes and workers."""

    def step(self, learning_rate: float) -> float | None:
        """The gradient's 2-norm before clipping, None if unknown, after clipping, the update and clearing the gradient.
        Every worker calls it."""

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of the workers' arrays, the same on all of them."""

    def model_state(self) -> dict[str, Tensor] | None:
        """The full weights on worker 0 if they are divided among workers; None if the model holds them."""

    def save_state(self, folder: Path) -> None:
        """Write the state for an exact continuation. Every worker calls it with the same staged folder."""

    def load_state(self, folder: Path) -> None:
        """Load a state from a verified folder, written by any engine on any number of workers. Every worker calls
        it."""

    def barrier(self) -> None:
        """Return when every worker has called it."""

    def discard(self) -> bool:
        """Whether the gradient and the memory of a broken-off step could be released."""

    def recompute_activations(self, wanted: bool) -> None:
        """Recompute activations in the following passes, which takes time and saves memory; or no longer."""

    def compile_layers(self, wanted: bool) -> None:
        """Compile the model's layers for the passes to come, or no longer."""

    def memory_share(self) -> float | None:
        """The largest share of the accelerator's memory in use since the last call; None on a CPU."""


def first_workers(engine: Engine, find: Callable[[], int]) -> int:
    """Worker 0's result on all workers: on a shared file system the others may see a folder a moment later."""
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
    """Free the memory of a broken-off backward pass."""
    # On a CPU autograd keeps the remaining work until the next backward pass begins.
    torch.zeros((), requires_grad=True).backward()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def memory_share(device: torch.device, still_to_come: int = 0) -> float | None:
    """`Engine.memory_share`, with `still_to_come` bytes added. Of a GPU that trials share it is the share of this
    process's part, whatever the others use."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device) + still_to_come
    free, total = torch.cuda.mem_get_info(device)
    part = torch.cuda.get_per_process_memory_fraction(device)
    others = total - free - torch.cuda.memory_reserved(device) if part == 1 else 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return (peak + others) / (part * total)


def bytes_of_moments(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimiser will take with its first step: two moments per weight, in fp32 or 8 bits."""
    of_each = 8 if isinstance(optimizer, torch.optim.AdamW) else 2
    return of_each * sum(weight.numel() for group in optimizer.param_groups for weight in group["params"])


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
