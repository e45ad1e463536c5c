"""fp32 masters of half-precision parameters: what the optimiser steps and the model is rounded from."""

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

_VALUES_AT_ONCE = 2**26
"""Number of gradient values that are summed over workers in one operation."""


class Masters:
    """An fp32 copy of each trained parameter in half precision; an fp32 one is its own master."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.tensors = [
            value if value.dtype == torch.float32 else nn.Parameter(value.detach().float()) for value in self.parameters
        ]

    def take_gradients(self) -> None:
        """Move the gradients, which are fp32, from the parameters to their masters."""
        for value, master in self._copies():
            master.grad, value.grad = value.grad, None

    def sum_over_workers(self) -> None:
        """Sum the masters' gradients over all workers, in fp32."""
        gradients = [master.grad for master in self.tensors if master.grad is not None]
        for some in _of_at_most(gradients, _VALUES_AT_ONCE):
            flat = torch.cat([gradient.flatten() for gradient in some])
            dist.all_reduce(flat)
            for gradient, part in zip(some, flat.split([one.numel() for one in some]), strict=True):
                gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def give_weights(self) -> None:
        """Round the masters to the weights that the model computes with."""
        copies = list(self._copies())
        if copies:
            torch._foreach_copy_([value for value, _ in copies], [master for _, master in copies])

    def forget_gradients(self) -> None:
        """Delete the gradients of the parameters and of their masters."""
        for tensor in (*self.parameters, *self.tensors):
            tensor.grad = None

    def _copies(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((value, master) for value, master in zip(self.parameters, self.tensors) if value is not master)


def _of_at_most(tensors: list[Tensor], values: int) -> Iterator[list[Tensor]]:
    """The tensors in groups of at most `values` values; a larger tensor is a group by itself."""
    group: list[Tensor] = []
    for tensor in tensors:
        if group and sum(one.numel() for one in group) + tensor.numel() > values:
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group
