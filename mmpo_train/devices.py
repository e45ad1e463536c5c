"""The device of this process, and copies of tensors that do not make CPU and accelerator wait for each other."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor


def own_device() -> torch.device:
    """This process's accelerator, its own if a machine has several workers; otherwise the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def keep_to_share(share: float) -> None:
    """Limit this process to a share of its GPU's memory, since other trials use the rest."""
    if share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share, own_device())


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, copied asynchronously: the next pass is prepared while this one is computed."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors' values in float64 on the CPU, in one transfer, since each transfer waits for the device."""
    flat = torch.cat([tensor.detach().double().flatten() for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
