"""The layouts of a pass, and which of them a model supports, found by trying."""

import numpy as np
import torch

from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.batches import Layout, collate
from mmpo_train.model.logps import Forward

FORWARD_TOKENS = {"cuda": 65_536, "cpu": 4_096}
"""Tokens of a pass without gradient, by kind of device; halved if they do not fit."""
_OUT_OF_MEMORY = ("can't allocate memory", "std::bad_alloc", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""Messages of a plain RuntimeError from torch's CPU allocator, C++, CUDA, and cuBLAS and cuDNN."""
_DENSER: dict[str, tuple[Layout, ...]] = {"shared": ("shared", "packed"), "packed": ("packed",), "padded": ()}


def best_layout(forward: Forward, table: TokenTable, precision: str, densest: str = "shared") -> Layout:
    """The densest layout, up to `densest`, in which the model gives the log-probabilities of padded rows.

    It is found by trying, since positions, masks or states other than those of plain causal attention (ALiBi, recurrent
    layers) rule out packed rows. The test uses the prompt with most tokens, where a window is most likely to show,
    between the two with fewest; by itself if memory cannot hold the three.
    """
    by_length = np.argsort(table.together, kind="stable")
    others = by_length[: min(2, len(table) - 1)]
    tolerance = 2e-2 if precision == "bf16" else 1e-4
    for layout in _DENSER[densest]:
        try:
            same = _same_as_padded(
                forward, table, np.array([*others[:1], by_length[-1], *others[1:]]), layout, tolerance
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            alone = _same_as_padded(forward, table, by_length[-1:], layout, tolerance)
            same = alone and (not len(others) or _same_as_padded(forward, table, others, layout, tolerance))
        if same:
            return layout
    return "padded"


def _same_as_padded(forward: Forward, table: TokenTable, some: np.ndarray, layout: Layout, tolerance: float) -> bool:
    """Whether one pass of some prompts gives the same log-probabilities as a padded pass for each."""
    with torch.no_grad():
        padded = [forward(collate(table, some[place : place + 1])).float().cpu() for place in range(len(some))]
        try:
            logps = forward(collate(table, some, layout)).float().cpu()
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            return False  # a model that takes no positions or no packing
    return torch.allclose(torch.cat([*padded, logps[:0]]), logps, rtol=tolerance, atol=tolerance)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the machine has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
