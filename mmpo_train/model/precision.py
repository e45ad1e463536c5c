"""The precision in which a model computes, with fp32 gradients for half-precision weights.

A step is the same sum for any division into passes only if no pass's share is rounded. The gradients of linear layers
embeddings and norms as Llama has them are therefore computed in fp32 from half-precision activations: matrix products
accumulate in fp32 anyway, and here the result stays in fp32. Gradients of biases and of other norms are rounded once
per pass and summed in fp32 like the others.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dtype_of(precision: str) -> torch.dtype:
    """The type of a model's weights and activations."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def round_weights(module: nn.Module, precision: str) -> None:
    """Round the parameters to a precision, in place. Buffers are left alone, as in DeepSpeed: rotary frequencies
    rounded to bf16 would encode other positions."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype_of(precision))


def gather_gradients_in_fp32(module: nn.Module) -> None:
    """Let the half-precision parameters that are trained compute and gather their gradients in fp32."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.requires_grad and weight.dtype != torch.float32:
            if type(part) is nn.Linear:
                part.__class__ = Linear
            elif type(part) is nn.Embedding and part.max_norm is None and not (part.sparse or part.scale_grad_by_freq):
                part.__class__ = Embedding
            elif hasattr(part, "variance_epsilon") and weight.dim() == 1:
                _let_scale_in_fp32(part)
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.grad_dtype = torch.float32


class Linear(nn.Linear):
    """A linear layer whose weight's gradient is fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Linear's."""
        return _Linear.apply(input, self.weight, self.bias)


class Embedding(nn.Embedding):
    """An embedding whose weight's gradient is fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Embedding's."""
        return _Embedding.apply(input, self.weight, -1 if self.padding_idx is None else self.padding_idx)


class RMSNorm(nn.Module):
    """Llama's norm, whose weight's gradient is fp32."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As the library's, rounded in the same places."""
        wide = hidden_states.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        scaled: Tensor = normed.to(hidden_states.dtype) * _Wide.apply(self.weight)
        return scaled.to(hidden_states.dtype)


def _let_scale_in_fp32(part: Any) -> None:
    """Make a norm an `RMSNorm` if it computes the same to the last bit."""
    states = torch.arange(3 * len(part.weight), device=part.weight.device).cos().view(3, -1).to(part.weight.dtype)
    with torch.no_grad():
        before, kind = part(states), type(part)
        part.__class__ = RMSNorm
        if not torch.equal(part(states), before):
            part.__class__ = kind


def weight_gradient(of_outputs: Tensor, inputs: Tensor) -> Tensor:
    """of_outputs.T @ inputs, of (T, O) and (T, I), in fp32."""
    if of_outputs.is_cuda and of_outputs.dtype != torch.float32:
        return torch.mm(of_outputs.T, inputs, out_dtype=torch.float32)
    return of_outputs.float().T @ inputs.float()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return F.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        rows = of_outputs.flatten(0, -2)
        return (
            of_outputs @ weight if ctx.needs_input_grad[0] else None,
            weight_gradient(rows, inputs.flatten(0, -2)) if ctx.needs_input_grad[1] else None,
            rows.sum(0, dtype=torch.float32) if ctx.needs_input_grad[2] else None,
        )


class _Wide(torch.autograd.Function):
    """A weight in fp32, whose gradient stays fp32. The product of two bf16 numbers is exact in it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.float()

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor) -> Tensor:
        return of_weight


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.padding = len(weight), padding
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        rows = torch.ops.aten.embedding_dense_backward(of_outputs.float(), ids, ctx.rows, ctx.padding, False)
        return None, rows, None
