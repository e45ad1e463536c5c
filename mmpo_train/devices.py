"""Where tensors live, and how they get there without the processor and its accelerator waiting for each other."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor


def own_device() -> torch.device:
    """This process's accelerator, of several workers' on a machine its own; or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def keep_to_share(share: float) -> None:
    """Let this process use no more than a share of its GPU's memory; other trials have the rest."""
    if share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share, own_device())


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, when that comes to it: the next pass is made while this one is computed."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors' values in float64 on the CPU, in one transfer: each waits for all that the device has to do."""
    flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
