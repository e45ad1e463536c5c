"""How fast this machine's CPU trains a layer of a model's shape: the base of a forecast where nothing was trained."""

import time
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpo_train.model.precision import dtype_of

_TOKENS, _LENGTH, _HEAD = 512, 64, 64
_MOST_WIDTH = 1024
"""Wider layers are no faster or slower per FLOP, and would take seconds."""
_SECONDS = 0.5


@cache
def layer_flop_per_second(parameters: int, layers: int, width: int, precision: str, threads: int) -> float:
    """FLOP per second of a forward and a backward pass of one layer with a model's share of parameters per layer. 6
    FLOP per parameter and token, by the processor's own time, so that other programs do not count. Takes a second."""
    before, dtype = torch.get_num_threads(), dtype_of(precision)
    hidden = max(1, round((parameters / layers / width - 4 * width) / 3))  # 4 d² of attention, 3 d h of a gated layer
    scale = min(1.0, _MOST_WIDTH / width)
    width, hidden = max(1, round(width * scale)), max(1, round(hidden * scale))
    heads = max(1, width // _HEAD)
    width -= width % (2 * heads)
    shapes = ((3 * width, width), (width, width), (2 * hidden, width), (width, hidden))
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            weights = [(0.02 * torch.randn(shape)).to(dtype).requires_grad_() for shape in shapes]
            tokens = torch.randn(_TOKENS // _LENGTH, _LENGTH, width).to(dtype)
        best, end = float("inf"), time.process_time() + _SECONDS * threads
        while best == float("inf") or time.process_time() < end:
            started = time.process_time()
            _layer(tokens, weights, heads).float().square().mean().backward()
            best = min(best, (time.process_time() - started) / threads)
    finally:
        torch.set_num_threads(before)
    return 6 * sum(one.numel() for one in weights) * _TOKENS / best


def _layer(x: Tensor, weights: list[Tensor], heads: int) -> Tensor:
    """A layer as Llama has it: attention with rotated positions and a gated linear unit, each after a norm in fp32."""
    qkv, out, up, down = weights
    rows, length, width = x.shape
    q, k, v = F.linear(_normed(x), qkv).view(rows, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(_rotated(q), _rotated(k), v, is_causal=True)
    x = x + F.linear(attended.transpose(1, 2).reshape(rows, length, width), out)
    gate, linear = F.linear(_normed(x), up).chunk(2, -1)
    return x + F.linear(F.silu(gate) * linear, down)


def _normed(x: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def _rotated(x: Tensor) -> Tensor:
    """Costs what rotary positions cost; the angles do not matter."""
    first, second = x.chunk(2, -1)
    return x * 0.6 + torch.cat((-second, first), -1) * 0.8
