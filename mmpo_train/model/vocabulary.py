"""The vocabulary projection: log-probabilities and entropies of single tokens from the model's last hidden states.

A row of logits is many times as wide as a hidden state. Logits are therefore computed for a chunk of positions at a
time, and again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpo_train.model.precision import Linear, weight_gradient

# On a CPU a chunk's logits should stay near its caches; on a GPU 512 x 128k x 4 bytes is a quarter of a GB.
_POSITIONS_PER_CHUNK = {"cpu": 128, "cuda": 512}
# Settings by which some models change their logits before the softmax.
_SCALINGS = ("logit_scale", "logits_scaling", "final_logit_softcapping")


def token_logps(
    model: Any, states: Tensor, targets: Tensor, *, entropies: bool = False, whole: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target (T,) and, if wanted, the entropy of its distribution (T,).

    In nats, in fp32 whatever the model's precision: log-sum-exp in bf16 would lose the differences that are compared.
    `states` is (T, D). `whole` calls the projection's module once for all positions, which ZeRO-3 needs because its
    workers must call the same modules equally often.
    """
    head = model.get_output_embeddings()
    size = _POSITIONS_PER_CHUNK.get(states.device.type, 512)
    plain = type(head) in (nn.Linear, Linear) and head.bias is None and not _scaling(model.config)
    if plain and not whole:
        return _LinearTokenLogps.apply(states, head.weight, targets, size, entropies)
    chunks = []
    for some, wanted in zip(states.split(size), targets.split(size), strict=True) if not whole else [(states, targets)]:
        if torch.is_grad_enabled():
            chunks.append(checkpoint(_through_module, model, some, wanted, use_reentrant=False))
        else:
            chunks.append(_through_module(model, some, wanted))
    logps, entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return logps, entropy if entropies else None


class _LinearTokenLogps(torch.autograd.Function):
    """Logits are `states @ weight.T`. The backward pass writes softmax, difference and scaling into one buffer."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, size: int, entropies: bool
    ) -> tuple[Tensor, Tensor | None]:
        sums, logps, entropy = [], [], []
        for some, wanted in zip(states.split(size), targets.split(size), strict=True):
            logits = (some @ weight.T).float()
            total = logits.logsumexp(dim=1)
            logps.append(logits.gather(1, wanted.unsqueeze(1)).squeeze(1) - total)
            sums.append(total)
            if entropies:
                of_all = logits.sub_(total.unsqueeze(1))
                entropy.append(-torch.linalg.vecdot(of_all.exp(), of_all))
        whole = torch.cat(entropy) if entropies else None
        ctx.save_for_backward(states, weight, targets, torch.cat(sums), whole)
        ctx.size = size
        return torch.cat(logps), whole

    @staticmethod
    def backward(ctx: Any, of_logps: Tensor, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        states, weight, targets, sums, entropy = ctx.saved_tensors
        of_states = torch.empty_like(states)
        # fp32: a sum over many chunks in bf16 would lose the later ones.
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(states), ctx.size):
            place = slice(start, start + ctx.size)
            of_logp = of_logps[place].unsqueeze(1)
            # d logp / d logits = onehot - p; d entropy / d logits = -p (log p + entropy).
            logps = (states[place] @ weight.T).float().sub_(sums[place].unsqueeze(1))
            factor = -of_logp
            if of_entropy is not None and entropy is not None:
                factor = factor - (logps + entropy[place].unsqueeze(1)) * of_entropy[place].unsqueeze(1)
            of_logits = logps.exp_().mul_(factor).scatter_add_(1, targets[place].unsqueeze(1), of_logp)
            of_logits = of_logits.to(weight.dtype)
            torch.mm(of_logits, weight, out=of_states[place])
            if of_weight is not None and weight.dtype == torch.float32:
                of_weight.addmm_(of_logits.T, states[place])
            elif of_weight is not None:
                of_weight += weight_gradient(of_logits, states[place])
        return of_states, of_weight, None, None, None


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
