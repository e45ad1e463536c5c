"""Disk space that trials need."""

from mmpo_train.config import TrialConfig
from mmpo_train.sft.trial import SFTTrial
from sweeps.cost.arithmetic import ModelSize

_OVERHEAD_BYTES = 20_000_000
_STATE_BYTES = 12
"""Bytes of a saved state per trained parameter: the weight and two moments in fp32."""


def room_needed(
    config: TrialConfig | SFTTrial, size: ModelSize | None, trials: int, at_a_time: int, *, stops: bool = False
) -> float:
    """Most bytes that trials need: the checkpoints of all epochs, and two states for each trial that runs at the same
    time, since the older one is deleted once the newer one is complete. A stopped trial keeps its state, a finished one
    does not. Failed trials are not counted, nor is a model of unknown size."""
    if size is None:
        return _OVERHEAD_BYTES
    lora_rank = config.lora_rank if isinstance(config, TrialConfig) else 0
    trained = size.adapter_parameters(lora_rank) if lora_rank else size.parameters
    checkpoint = trained * (2 if config.precision == "bf16" and not lora_rank else 4)
    running = min(trials, at_a_time)
    states = (trials + running if stops else 2 * running) * _STATE_BYTES * trained
    return _OVERHEAD_BYTES + trials * config.epochs * checkpoint + states
