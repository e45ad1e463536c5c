"""The training loop: epochs of steps over preference pairs or conversations."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from mmpo_train.config import TrialConfig
from mmpo_train.data.tokens import TokenTable
from mmpo_train.engines.engine import Engine
from mmpo_train.engines.passes import Passes
from mmpo_train.errors import Left
from mmpo_train.metric_names import CURVE, EPOCH, GRADIENT_NORM, LEARNING_RATE, STEP_SECONDS, TOKENS_PER_SECOND, TRAIN
from mmpo_train.model.batches import consecutive
from mmpo_train.model.layouts import is_out_of_memory
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.schedule import learning_rate_at

Report = Callable[[dict[str, float], int], None]
"""Receives metrics and their optimiser step (from 1). Called on every worker with the same numbers."""
Keep = Callable[[int, int], None]
"""Receives the number of finished epochs and the last step, and writes the epoch's checkpoint or a state to resume from
within an epoch. Called on every worker."""


class OutOfMemory(Exception):
    """A pass did not fit in memory, and this engine cannot try a smaller one in the middle of a step."""


class Diverged(Exception):
    """The loss or the gradient is not finite any more, which is a result of the trial, not a fault of the program."""


@dataclass(frozen=True)
class Step:
    """The work of one optimiser step."""

    table: TokenTable
    add_gradient: Callable[[Passes], dict[str, float]]
    """Adds the gradient of its mean loss to the engine's, in such passes. Returns `loss` and other means over the step,
    and the number of `tokens`; the same on every worker. Called again if memory ran out."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further metrics of the step, by their full names."""


class Task(Protocol):
    """The learning task. Every worker calls the same methods in the same order."""

    examples: str
    """Name of the examples in metrics."""
    advice: str
    """What the user can do if a single example does not fit in memory."""
    reference_point: RunningMean
    """The running mean of objectives that have one, saved with the training's state."""

    @property
    def tried(self) -> TokenTable:
        """Examples with which the size of passes is tried."""

    def __len__(self) -> int:
        """Examples of one epoch."""

    def begin_epoch(self, epoch: int) -> np.ndarray:
        """The order of the examples in an epoch (from 1)."""

    def get_ready(self, step: int) -> None:
        """Return when everything that a step (from 1) needs is ready. This time does not count as the step's."""

    def step_of(self, examples: np.ndarray, number: int, passes: Passes) -> Step:
        """The work of step `number` (from 1) on these examples."""

    def validation(self, passes: Passes) -> dict[str, float]:
        """Metrics of the validation examples under the present policy."""


def train(
    config: TrialConfig,
    task: Task,
    engine: Engine,
    passes: Passes,
    *,
    report: Report,
    publish: Keep,
    keep: Keep = lambda epochs, step: None,
    keep_passes: Callable[[Passes], None] = lambda passes: None,
    told_to_go: Callable[[], bool] = lambda: False,
    told_to_copy: Callable[[], bool] = lambda: False,
    copy: Keep = lambda epochs, step: None,
    finished_steps: int = 0,
) -> None:
    """Optimise until the config's epochs are done, beginning after step `finished_steps`.

    The examples and their order depend on the config and the task alone: not on the number of workers, on how many
    examples fit in a pass, or on interruptions. `publish` is called at the end of each epoch, `keep` every
    `checkpoint_minutes` within one, `keep_passes` with smaller passes when memory runs out. If a worker is
    `told_to_go`, all write a state after the step, and Left is raised; if one is `told_to_copy`, `copy` is called after
    any step but the last. Raises Diverged and OutOfMemory.
    """
    steps_per_epoch = math.ceil(len(task) / config.pairs_per_step)
    total_steps = steps_per_epoch * config.epochs
    kept = time.perf_counter()
    for epoch in range(finished_steps // steps_per_epoch + 1, config.epochs + 1):
        order = task.begin_epoch(epoch)
        for number, some in enumerate(consecutive(order, config.pairs_per_step), (epoch - 1) * steps_per_epoch + 1):
            if number <= finished_steps:
                continue
            task.get_ready(number)
            started = time.perf_counter()
            step = task.step_of(some, number, passes)
            means, passes = _add_gradient(config, task, engine, step, passes, keep_passes, number)
            learning_rate = learning_rate_at(number - 1, total_steps, config.learning_rate, config.warmup_share)
            metrics = {EPOCH: number / steps_per_epoch, LEARNING_RATE: learning_rate, **step.metrics}
            tokens = means.pop("tokens")
            if len(step.table):  # an online step whose prompts were all dropped teaches nothing
                _stop_if_not_finite("loss", means["loss"], number)
                norm = engine.step(learning_rate)
                if norm is not None:
                    _stop_if_not_finite("gradient norm", norm, number)
                    metrics[GRADIENT_NORM] = norm
                metrics |= {f"{TRAIN}{name}": mean for name, mean in means.items()}
            # Every worker must report the same numbers and write at the same steps: times are the workers' means.
            now = time.perf_counter()
            orders = float(told_to_go()), float(told_to_copy())
            of_all = engine.sum(np.array([now - started, now - kept, *orders])) / engine.workers
            seconds, since_kept, told, copied = of_all.tolist()
            metrics |= {
                f"{TRAIN}{task.examples}_per_second": len(step.table) / seconds,
                TOKENS_PER_SECOND: tokens / seconds,
                STEP_SECONDS: seconds,
            }
            if number == epoch * steps_per_epoch or number % config.validate_every_steps == 0:
                metrics |= {f"{CURVE}{name}": value for name, value in task.validation(passes).items()}
            report(metrics, number)
            if copied and number < total_steps:
                copy(number // steps_per_epoch, number)
            if number < epoch * steps_per_epoch and (told or 0 < config.checkpoint_minutes * 60 <= since_kept):
                keep(epoch - 1, number)
                if told:
                    raise Left(f"left after step {number}")
                kept = time.perf_counter()
        publish(epoch, epoch * steps_per_epoch)
        if told and epoch < config.epochs:
            raise Left(f"left after epoch {epoch}")
        kept = time.perf_counter()


def _add_gradient(
    config: TrialConfig,
    task: Task,
    engine: Engine,
    step: Step,
    passes: Passes,
    keep_passes: Callable[[Passes], None],
    number: int,
) -> tuple[dict[str, float], Passes]:
    """The means over a step, whose gradient is added, and the passes used: smaller ones if memory ran out. Raises
    OutOfMemory if the engine cannot begin the step again, or a single example does not fit."""
    while True:
        torch.manual_seed(hash((config.seed, number, engine.worker)))  # dropout: the same after a resume
        try:
            return step.add_gradient(passes), passes
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = passes.smaller(step.table, config.gradient_checkpointing == "auto", engine.workers)
            what = f"step {number} ran out of memory with passes of {passes}"
            if smaller is None:
                raise OutOfMemory(f"{what}, one of the {task.examples} each: {task.advice}") from error
            keep_passes(smaller)
        # Only here, after the error, is its traceback gone, which holds the pass.
        if not engine.discard():
            raise OutOfMemory(f"{what}; the restarted trial takes {smaller}")
        passes = smaller
        engine.recompute_activations(smaller.checkpointing)


def _stop_if_not_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {what} is {value} at step {step}")
