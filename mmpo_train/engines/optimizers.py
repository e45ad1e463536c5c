"""The optimisers, all with PyTorch's interface. The door to bitsandbytes."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from mmpo_train.config import TrialConfig


def build_optimizer(config: TrialConfig, parameters: Iterable[Parameter]) -> Optimizer:
    """AdamW, or its 8-bit variant (Dettmers et al. 2022), with the moments' defaults; the rate is set at every step."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if config.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    return AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def steps_made(optimizer: Optimizer, tensors: Sequence[Tensor]) -> int:
    """Number of steps that the optimiser has made; 0 if it has no moments yet."""
    return max((int(optimizer.state[tensor]["step"]) for tensor in tensors if tensor in optimizer.state), default=0)


def moments(optimizer: Optimizer, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """First and second moment of one of the optimiser's tensors, fp32, of its shape; None if it has none."""
    state = optimizer.state.get(tensor)
    if not state:
        return None
    if "exp_avg" in state:
        return state["exp_avg"], state["exp_avg_sq"]
    return _from_8_bits(state, 1), _from_8_bits(state, 2)


def set_moments(optimizer: Optimizer, tensor: Tensor, steps: int, first: Tensor, second: Tensor) -> None:
    """Set the moments of a tensor after `steps` steps; the optimiser owns them from then on."""
    if isinstance(optimizer, AdamW):
        # A tensor: the fused kernel counts on the device.
        step = torch.tensor(float(steps), dtype=torch.float32, device=tensor.device)
        optimizer.state[tensor] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        return
    state = _empty_8_bit_state(optimizer, tensor, steps)
    for number, values in ((1, first), (2, second)):
        _to_8_bits(state, number, values)


def bytes_of(optimizer: Optimizer, tensor: Tensor) -> dict[str, Tensor]:
    """An 8-bit optimiser's state of a tensor, without constants; empty for other optimisers."""
    state = optimizer.state.get(tensor) or {}
    return {name: state[name] for name in ("state1", "state2", "absmax1", "absmax2") if name in state}


def moments_from_bytes(optimizer: Optimizer, tensor: Tensor, steps: int, held: dict[str, Tensor]) -> None:
    """Restore a state from `bytes_of`, after `steps` steps."""
    if held:
        state = _empty_8_bit_state(optimizer, tensor, steps)
        for name, values in held.items():
            state[name].copy_(values)


_BLOCK = 256
"""Number of neighbouring values that share one scale in bitsandbytes' optimisers."""


def _empty_8_bit_state(optimizer: Any, tensor: Tensor, steps: int) -> dict[str, Any]:
    [group] = optimizer.param_groups
    present, group["params"] = group["params"], [tensor]  # ZeRO-3 lists its tensors only while it steps
    optimizer.init_state(group, tensor, 0, 0)
    group["params"] = present
    state: dict[str, Any] = optimizer.state[tensor]
    state["step"] = steps
    return state


def _from_8_bits(state: dict[str, Any], number: int) -> Tensor:
    from bitsandbytes.functional import dequantize_blockwise

    held: Tensor = state[f"state{number}"]
    if held.dtype != torch.uint8:  # small tensors are kept in fp32
        return held
    code, scales = state[f"qmap{number}"], state[f"absmax{number}"]
    return dequantize_blockwise(held, absmax=scales, code=code, blocksize=_BLOCK)


def _to_8_bits(state: dict[str, Any], number: int, values: Tensor) -> None:
    from bitsandbytes.functional import quantize_blockwise

    held: Tensor = state[f"state{number}"]
    if held.dtype != torch.uint8:
        held.copy_(values)
        return
    rounded, scales = quantize_blockwise(values, code=state[f"qmap{number}"], blocksize=_BLOCK)
    held.copy_(rounded)
    state[f"absmax{number}"].copy_(scales.absmax)
