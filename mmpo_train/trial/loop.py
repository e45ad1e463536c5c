"""The training loop: epochs of steps over whatever is learned, preference pairs or conversations."""

from __future__ import annotations

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
from mmpo_train.metric_names import CURVE, EPOCH, GRADIENT_NORM, LEARNING_RATE, STEP_SECONDS, TOKENS_PER_SECOND, TRAIN
from mmpo_train.model.batches import consecutive
from mmpo_train.model.layouts import is_out_of_memory
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.schedule import learning_rate_at

Report = Callable[[dict[str, float], int], None]
"""Takes metrics and the optimiser step (from 1) they belong to. Called on every worker with the same numbers."""
Keep = Callable[[int, int], None]
"""Takes the epochs that are finished and the last step: write the epoch's checkpoint, or what a resume from within an
epoch needs. Called on every worker."""


class OutOfMemory(Exception):
    """A pass did not fit into memory, and this engine cannot try a smaller one in the middle of a step."""


class Diverged(Exception):
    """The loss or the gradient is no longer a finite number; a result of the trial, not a fault of the program."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step learns from."""

    table: TokenTable
    add_gradient: Callable[[Passes], dict[str, float]]
    """Adds the gradient of its mean loss to the engine's, in such passes. Returns `loss` and other means over
    the step, and `tokens`, their number; the same on every worker. Called again where memory ran out."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What else there is to tell of the step, by its whole name."""


class Task(Protocol):
    """What is learned. Every worker calls the same methods in the same order."""

    examples: str
    """What the examples are called in metrics."""
    advice: str
    """What helps where a single example does not fit into memory."""
    reference_point: RunningMean
    """The running quantity of objectives that have one, kept with the training's state."""

    @property
    def tried(self) -> TokenTable:
        """Examples from which the size of passes is found by trying."""

    def __len__(self) -> int:
        """Examples of one epoch."""

    def begin_epoch(self, epoch: int) -> np.ndarray:
        """The order in which an epoch (from 1) sees the examples."""

    def get_ready(self, step: int) -> None:
        """Return when all that a step (from 1) needs is there. The time that takes is not the step's."""

    def step_of(self, examples: np.ndarray, number: int, passes: Passes) -> Step:
        """What step `number` (from 1) learns from, of these examples."""

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
    finished_steps: int = 0,
) -> None:
    """Optimise until the config's epochs are done, from after step `finished_steps`.

    What is seen in which order depends on the config and the task alone: not on the number of workers, nor on how many
    examples fit in a pass, nor on interruptions. `publish` is called at each epoch's end, `keep` every
    `checkpoint_minutes` within one; `keep_passes` is told of smaller passes when memory runs out. Raises Diverged and
    OutOfMemory.
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
            seconds, since_kept = _mean_seconds(engine, started, kept)
            metrics |= {
                f"{TRAIN}{task.examples}_per_second": len(step.table) / seconds,
                TOKENS_PER_SECOND: tokens / seconds,
                STEP_SECONDS: seconds,
            }
            if number == epoch * steps_per_epoch or number % config.validate_every_steps == 0:
                metrics |= {f"{CURVE}{name}": value for name, value in task.validation(passes).items()}
            report(metrics, number)
            if number < epoch * steps_per_epoch and 0 < config.checkpoint_minutes * 60 <= since_kept:
                keep(epoch - 1, number)
                kept = time.perf_counter()
        publish(epoch, epoch * steps_per_epoch)
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
    """The means over a step, whose gradient is added; from the beginning with smaller passes where memory runs
    out, which are returned too.

    Raises OutOfMemory where the engine cannot begin the step again, or a single example does not fit.
    """
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
            raise OutOfMemory(f"{what}; begun again, the trial takes {smaller}")
        passes = smaller
        engine.recompute_activations(smaller.checkpointing)


def _mean_seconds(engine: Engine, *since: float) -> list[float]:
    """How long ago these times of `perf_counter` were, in the mean over workers; the same on all of them."""
    now = time.perf_counter()
    return (engine.sum(np.array([now - one for one in since])) / engine.workers).tolist()


def _stop_if_not_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {what} is {value} at step {step}")
