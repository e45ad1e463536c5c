"""The vocabulary projection: log-probabilities and entropies of single tokens from the model's last hidden states.

A row of logits is many times as wide as a hidden state. Logits are therefore computed for a chunk of positions at a
time, and again in the backward pass if it needs them.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpo_train.model.precision import Linear, weight_gradient

# Settings by which some models change their logits before the softmax.
_SCALINGS = ("logit_scale", "logits_scaling", "final_logit_softcapping")


def positions_per_chunk(device: torch.device, vocabulary: int) -> int:
    """Number of positions whose logits are computed at a time: on a CPU few enough for its caches, on a GPU half a GB
    of logits in fp32, so that matrix products are large."""
    return 128 if device.type == "cpu" else max(256, 2**27 // vocabulary // 256 * 256)


def token_logps(
    model: Any, states: Tensor, targets: Tensor, *, entropies: bool = False, whole: bool = False, fused: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target (T,) and, if wanted, the entropy of its distribution (T,).

    In nats, in fp32 whatever the model's precision: log-sum-exp in bf16 would lose the differences that are compared.
    `states` is (T, D). `whole` calls the projection's module once for all positions, which ZeRO-3 needs because its
    workers must call the same modules equally often. `fused` compiles what is done to each logit.
    """
    head = model.get_output_embeddings()
    size = positions_per_chunk(states.device, len(head.weight)) if hasattr(head, "weight") else 128
    plain = type(head) in (nn.Linear, Linear) and head.bias is None and not _scaling(model.config)
    if plain and not whole:
        return _LinearTokenLogps.apply(states, head.weight, targets, size, entropies, fused)
    chunks = []
    for some, wanted in zip(states.split(size), targets.split(size), strict=True) if not whole else [(states, targets)]:
        if torch.is_grad_enabled():
            chunks.append(checkpoint(_through_module, model, some, wanted, use_reentrant=False))
        else:
            chunks.append(_through_module(model, some, wanted))
    logps, entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return logps, entropy if entropies else None


class _LinearTokenLogps(torch.autograd.Function):
    """Logits are `states @ weight.T`. Under a frozen head in half precision the states' gradient for a factor of 1 is
    computed beside the values, so that the backward pass needs no logits any more."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, size: int, entropies: bool, fused: bool
    ) -> tuple[Tensor, Tensor | None]:
        normalise = _compiled(_normalised) if fused else _normalised
        of_logits = _compiled(_of_logits) if fused else _of_logits
        needs_states, needs_weight, *_ = ctx.needs_input_grad
        once = needs_states and not needs_weight and not entropies and weight.dtype != torch.float32
        units = torch.empty_like(states) if once else None
        sums, logps, entropy = [], [], []
        for start in range(0, len(states), size):
            place = slice(start, start + size)
            logits = states[place] @ weight.T
            logp, total = normalise(logits, targets[place])
            logps.append(logp)
            sums.append(total)
            if units is not None:
                ones = torch.ones_like(total)
                torch.mm(of_logits(logits, total, targets[place], ones), weight, out=units[place])
            if entropies:
                of_all = logits.float().sub_(total.unsqueeze(1))
                entropy.append(-torch.linalg.vecdot(of_all.exp(), of_all))
        whole = torch.cat(entropy) if entropies else None
        ctx.save_for_backward(None if once else states, weight, targets, torch.cat(sums), whole, units)
        ctx.size, ctx.of_logits = size, of_logits
        return torch.cat(logps), whole

    @staticmethod
    def backward(ctx: Any, of_logps: Tensor, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weight, targets, sums, entropy, units = ctx.saved_tensors
        if units is not None:
            # Into half precision, from a product in fp32.
            return torch.mul(units, of_logps.unsqueeze(1), out=torch.empty_like(units)), *[None] * 5
        of_states = torch.empty_like(states)
        # fp32: a sum over many chunks in bf16 would lose the later ones.
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(states), ctx.size):
            place = slice(start, start + ctx.size)
            logits = states[place] @ weight.T
            if of_entropy is None or entropy is None:
                of_logits = ctx.of_logits(logits, sums[place], targets[place], of_logps[place])
            else:
                uncertain = entropy[place], of_entropy[place]
                of_logits = _of_logits(logits, sums[place], targets[place], of_logps[place], *uncertain)
            torch.mm(of_logits, weight, out=of_states[place])
            if of_weight is not None and weight.dtype == torch.float32:
                of_weight.addmm_(of_logits.T, states[place])
            elif of_weight is not None:
                of_weight += weight_gradient(of_logits, states[place])
        return of_states, of_weight, *[None] * 4


def _normalised(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and the logits' log-sum-exp, (T,), fp32."""
    values = logits.float()
    total = values.logsumexp(dim=1)
    return values.gather(1, targets.unsqueeze(1)).squeeze(1) - total, total


def _of_logits(
    logits: Tensor,
    sums: Tensor,
    targets: Tensor,
    of_logps: Tensor,
    entropy: Tensor | None = None,
    of_entropy: Tensor | None = None,
) -> Tensor:
    """The logits' gradient (T, V), in their precision, written into one fp32 buffer.

    d logp / d logits = onehot - p; d entropy / d logits = -p (log p + entropy).
    """
    logps = logits.float().sub_(sums.unsqueeze(1))
    factor = -of_logps.unsqueeze(1)
    if entropy is not None and of_entropy is not None:
        factor = factor - (logps + entropy.unsqueeze(1)) * of_entropy.unsqueeze(1)
    gradient = logps.exp_().mul_(factor).scatter_add_(1, targets.unsqueeze(1), of_logps.unsqueeze(1))
    return gradient.to(logits.dtype)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


def _through_module(model: Any, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = model.get_output_embeddings()(states).float()
    scaling = _scaling(model.config)
    if "logit_scale" in scaling:  # Cohere
        logits = logits * scaling["logit_scale"]
    if "logits_scaling" in scaling:  # Granite
        logits = logits / scaling["logits_scaling"]
    if "final_logit_softcapping" in scaling:  # Gemma
        logits = scaling["final_logit_softcapping"] * torch.tanh(logits / scaling["final_logit_softcapping"])
    logps = F.log_softmax(logits, dim=1)
    return logps.gather(1, targets.unsqueeze(1)).squeeze(1), -(logps.exp() * logps).sum(dim=1)


def _scaling(config: Any) -> dict[str, float]:
    return {name: getattr(config, name) for name in _SCALINGS if getattr(config, name, None)}
