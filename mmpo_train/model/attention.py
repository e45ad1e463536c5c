"""Attention in a packed row, in which each completion attends to its prompt and itself, but not to its neighbours.

`policy.use_packed_attention` installs it in models of transformers, which run unmodified.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpo_train.devices import moved

# Arguments of some architectures beyond a causal mask and a window, which this attention does not support.
_UNKNOWN = ("softcap", "position_bias", "s_aux")

_KERNEL_DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Packing:
    """Which tokens attend to which, in one row of L tokens with several sequences one after the other. A dataclass, not
    a tuple: DeepSpeed's hooks take tuples among a module's arguments apart."""

    pieces: tuple[int, ...]
    """Lengths of the prompts and completions in the row. A span attends to whole pieces."""
    spans: tuple[tuple[int, int, int, int], ...]
    """First and last (exclusive) piece of each span of queries, and of the prefix that it also attends to. Spans are in
    order and without gaps."""
    query_ends: Tensor
    """(S + 1,) int32, cumulated lengths of the spans."""
    key_ends: Tensor
    """(S + 1,) int32, cumulated lengths of the spans with their prefixes."""
    key_places: Tensor | None
    """The row's tokens in the order in which the spans attend to them; None if no span has a prefix."""
    longest_query: int
    longest_key: int

    def to(self, device: torch.device) -> Packing:
        """The packing on another device."""
        places = None if self.key_places is None else moved(self.key_places, device)
        ends = moved(self.query_ends, device), moved(self.key_ends, device)
        return Packing(self.pieces, self.spans, *ends, places, self.longest_query, self.longest_key)


def packing_of(pieces: Sequence[int], spans: Sequence[tuple[int, int, int, int]]) -> Packing:
    """The packing of `pieces` and `spans`, as its fields describe them."""
    starts = [0, *accumulate(pieces)]
    parts = [((starts[first], starts[last]), (starts[start], starts[end])) for start, end, first, last in spans]
    queries = [end - start for _, (start, end) in parts]
    keys = [last - first + own for ((first, last), _), own in zip(parts, queries, strict=True)]
    ends = [torch.tensor([0, *accumulate(lengths)], dtype=torch.int32) for lengths in (queries, keys)]
    gathered = None
    if queries != keys:
        gathered = torch.from_numpy(np.concatenate([np.arange(*part) for both in parts for part in both]))
    return Packing(tuple(pieces), tuple(spans), ends[0], ends[1], gathered, max(queries), max(keys))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    otherwise: Callable[..., tuple[Tensor, None]],
    **extras: Any,
) -> tuple[Tensor, None]:
    """Attention outputs (1, L, H, D) for queries (1, H, L, D) and keys and values (1, H / G, L, D) of a packed row.

    On CUDA in half precision one `varlen_attn` serves all spans; elsewhere, and in fp32, one SDPA per span. Without a
    `packing` it calls `otherwise`, the library's own attention. Raises ValueError for unsupported arguments.
    """
    if packing is None:
        return otherwise(module, query, key, value, attention_mask, scaling=scaling, **extras)
    asked = [name for name in _UNKNOWN if extras.get(name) is not None]
    if asked or not getattr(module, "is_causal", True):
        raise ValueError(f"packed rows cannot have attention with {asked or 'a view of what comes later'}")
    if value.dtype in _KERNEL_DTYPES:  # a model may compute positions in fp32; the kernel takes one precision
        query, key = query.to(value.dtype), key.to(value.dtype)
    attend = _varlen if _has_kernel(query) else _span_by_span
    return attend(query, key, value, packing, scaling, sliding_window), None


def _has_kernel(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in _KERNEL_DTYPES


def _span_by_span(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    # Split, not sliced: the backward pass of a slice fills a tensor of the whole row's size, once for each span.
    queries = query.split(packing.query_ends.diff().tolist(), dim=2)
    keys, values = (states.split(packing.pieces, dim=2) for states in (key, value))
    attended, grouped = [], query.shape[1] != key.shape[1]
    for states, (start, end, first, last) in zip(queries, packing.spans, strict=True):
        seen = [*range(first, last), *range(start, end)]
        own_keys, own_values = (torch.cat([parts[piece] for piece in seen], dim=2) for parts in (keys, values))
        mask = None
        if last > first or (window is not None and states.shape[2] > window):
            mask = _mask(states.shape[2], own_keys.shape[2], window, query.device)
        how: dict[str, Any] = {"attn_mask": mask, "is_causal": mask is None, "scale": scaling, "enable_gqa": grouped}
        attended.append(F.scaled_dot_product_attention(states, own_keys, own_values, **how))
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous()


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """True where a query may attend to a key: the last query to the last key, each to at most `window` keys."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen if window is None else seen.triu(keys - queries - window + 1)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    queries, keys, values = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    if packing.key_places is not None:
        # Not keys[places], whose backward pass sorts the places.
        keys, values = (states.index_select(0, packing.key_places) for states in (keys, values))
    attend, takes = _varlen_attn()
    # Torch 2.10 has is_causal, later ones a window. Both align the last query with the last key.
    how: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
    if "window_size" not in takes:
        if window is not None and packing.longest_key > window:
            raise ValueError("this torch's varlen_attn has no windows")
        how = {"is_causal": True}
    groups = queries.shape[1] // keys.shape[1]
    if groups > 1 and "enable_gqa" in takes:
        how["enable_gqa"] = True
    elif groups > 1:
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    ends = packing.query_ends, packing.key_ends, packing.longest_query, packing.longest_key
    return attend(queries, keys, values, *ends, scale=scaling, **how).unsqueeze(0)


@cache
def _varlen_attn() -> tuple[Any, frozenset[str]]:
    """The function and the names of its parameters, which differ between versions of torch."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)
