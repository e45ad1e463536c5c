"""A trial's workers under DeepSpeed ZeRO. The door to deepspeed.

In bf16 weights are bf16 with fp32 masters. A pass's gradient is computed, summed over passes and summed over workers in
fp32, whatever the stage:

stage 0   every worker holds everything: the plain engine, without DeepSpeed
stage 1   DeepSpeed's BF16_Optimizer: each worker sums all gradients, they are reduced once a step
stage 2   each worker keeps its part of the sums: gradients are reduced in every pass
stage 3   the same, and the weights are spread too
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mmpo_train.config import TrialConfig
from mmpo_train.engines import training_state
from mmpo_train.engines.engine import (
    Engine,
    bytes_of_moments,
    let_go_of_backward,
    memory_share,
    set_learning_rate,
    sum_of_arrays,
)
from mmpo_train.engines.optimizers import build_optimizer
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.engines.training_state import Share, Shares
from mmpo_train.model.logps import CompletionLogps, Pass
from mmpo_train.model.precision import gather_gradients_in_fp32, round_weights

_BUCKET_VALUES = 500_000_000
"""DeepSpeed's own size of the buffer that gradients are reduced in; smaller models take a smaller one."""


def zero_engine(module: CompletionLogps, config: TrialConfig) -> Engine:
    """The engine of the config's ZeRO stage. torch.distributed must have been set up (Ray Train does it)."""
    return DeepSpeedEngine(module, config) if config.zero_stage else TorchEngine(module, config)


def import_deepspeed() -> Any:
    """The library, for this process's devices."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    with _not_imported("mlflow"):  # takes longer than all else of it, for an auto-tuner that nobody calls
        import deepspeed

    # Its shared-memory extension is for inference only. Compiling it takes half a minute, and a process that is killed
    # meanwhile leaves a lock for which every later one waits forever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


class DeepSpeedEngine:
    """`Engine` on DeepSpeed: weights, gradients and optimiser states spread as the ZeRO stage, 1 to 3, says.

    The boundary between steps is ours (`managed_gradient_accumulation: false`), so that a step may have any number of
    passes.
    """

    def __init__(self, module: CompletionLogps, config: TrialConfig) -> None:
        deepspeed = import_deepspeed()
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
        self.worker, self.workers = dist.get_rank(), dist.get_world_size()
        round_weights(module, config.precision)
        gather_gradients_in_fp32(module)
        self.moments_of = build_optimizer(config, module.parameters())
        values = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=self.moments_of, config=_deepspeed_config(config, self.workers, values)
        )
        self.module, self.device = module, self.engine.device
        self.stage = config.zero_stage
        if config.precision == "bf16":
            _reduce_in_fp32(self.optimizer, self.stage)

    def logps(self, one: Pass, entropies: bool = False) -> Tensor:
        return self.engine(one.to(self.device), entropies)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages gradients over workers; the loop's losses are shares of one sum.
        self.engine.backward(loss * self.workers)

    def step(self, learning_rate: float) -> float:
        set_learning_rate(self.optimizer, learning_rate)
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        assert norm is not None
        return float(norm)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return sum_of_arrays(values, self.device)

    def model_state(self) -> dict[str, Tensor] | None:
        if self.stage < 3:
            return None
        state = self.engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=False)
        return None if state is None else {name.removeprefix("model."): value for name, value in state.items()}

    def save_state(self, folder: Path) -> None:
        training_state.save(folder, self._shares())

    def load_state(self, folder: Path) -> None:
        training_state.load(folder, self._shares())
        # The model computes with copies of the optimiser's weights: copy them again, as after a step.
        if self.stage == 3:
            for group in range(len(self.optimizer.fp32_partitioned_groups_flat)):
                self.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        else:
            self.optimizer.update_lp_params()

    def _shares(self) -> Shares:
        """The shares of the parameters, as DeepSpeed 0.19's optimisers divide them."""
        named = [(name, value) for name, value in self.engine.module.named_parameters() if value.requires_grad]
        if self.stage == 3:
            tensors = self.optimizer.fp32_partitioned_groups_flat
            shapes = {name: value.ds_shape for name, value in named}
            found = {name: self._share_under_zero_3(value) for name, value in named}
        else:
            tensors = self._partitions()
            shapes = {name: value.shape for name, value in named}
            found = {name: _share_of_fragment(value._hp_mapping) for name, value in named if value._hp_mapping}
        shares = {name: share for name, share in found.items() if share.size > 0}
        return Shares(self.moments_of, tensors, shapes, shares, self.worker == 0, self.worker, dist.all_reduce)

    def _partitions(self) -> list[Tensor]:
        """The fp32 weights that this worker steps at stages 1 and 2."""
        names = ("single_partition_of_fp32_groups", "fp32_groups_flat_partition")  # the latter BF16_Optimizer's
        found: list[Tensor] = next(getattr(self.optimizer, name) for name in names if hasattr(self.optimizer, name))
        return found

    def _share_under_zero_3(self, parameter: Any) -> Share:
        tensor, offset, padded = self.optimizer.grad_position[self.optimizer.get_param_id(parameter)]
        start = padded * self.worker
        return Share(tensor, offset, start, min(padded, parameter.ds_numel - start))

    def barrier(self) -> None:
        dist.barrier()

    def discard(self) -> bool:
        # Other workers wait for this one in a collective operation; and ZeRO-3 breaks off with parameters half
        # gathered, and a trace half recorded, which only a new process gets rid of.
        if self.workers > 1 or self.stage == 3:
            return False
        self.optimizer.zero_grad()
        _forget_reductions(self.optimizer)
        let_go_of_backward(self.device)
        return True

    def recompute_activations(self, wanted: bool) -> None:
        self.module.recompute_activations(wanted)

    def compile_layers(self, wanted: bool) -> None:
        self.module.compile_layers(wanted)

    def memory_share(self) -> float | None:
        # ZeRO's own optimiser holds this worker's part alone.
        return memory_share(self.device, 0 if self.moments_of.state else bytes_of_moments(self.moments_of))


@contextmanager
def _not_imported(name: str) -> Iterator[None]:
    """A block in which importing a library fails as if it were not installed, unless it is loaded already."""
    is_loaded = name in sys.modules
    if not is_loaded:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not is_loaded:
            del sys.modules[name]


def _share_of_fragment(mapping: Any) -> Share:
    """The share of a parameter in ZeRO-1 and ZeRO-2."""
    mine, of_parameter = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Share(mapping.param_group_index, mine.start, of_parameter.start, mine.numel)


def _forget_reductions(optimizer: Any) -> None:
    """Reset the optimiser of ZeRO-1 or ZeRO-2 (DeepSpeed 0.19) to its state before a step's first pass."""
    # Otherwise DeepSpeed would still consider itself inside that pass. Outside a pass this does nothing.
    optimizer.exit_backward()
    if not hasattr(optimizer, "ipg_buckets"):  # BF16_Optimizer reduces once a step, and its zero_grad forgets all
        return
    # Sums over the step's earlier passes (the second has bf16 ones summed in fp32); DeepSpeed's own step forgets
    # them in this way where gradients have overflowed.
    optimizer.all_grad_tensors.clear()
    optimizer.averaged_gradients.clear()
    # What the end of a backward pass does, without its reduction. Gradients of the broken-off one wait in buckets, and
    # their parameters count as done: the next pass would add the former and stumble over the latter.
    for bucket in optimizer.ipg_buckets.values():
        bucket.clear()
    optimizer.extra_large_param_to_reduce.clear()  # one that is larger than a bucket waits beside it
    optimizer.params_already_reduced[:] = [False] * len(optimizer.params_already_reduced)
    optimizer._release_ipg_buffers()


def _reduce_in_fp32(optimizer: Any, stage: int) -> None:
    """Let the buffers that ZeRO-2 and ZeRO-3 reduce gradients in, as of DeepSpeed 0.19, hold fp32 ones unrounded."""
    if stage == 2:
        optimizer._gradient_reduction_buffer_dtype = lambda: torch.float32
    elif stage == 3:
        for bucket in optimizer.ipg_buckets.values():
            bucket.buffer = torch.empty_like(bucket.buffer, dtype=torch.float32)


def _deepspeed_config(config: TrialConfig, workers: int, values: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": workers,
        "managed_gradient_accumulation": False,
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": min(_BUCKET_VALUES, values),
            "overlap_comm": False,  # deepspeedai/DeepSpeed#6351: gradients that are reduced before they are written
        },
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "gradient_clipping": config.max_gradient_norm,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
