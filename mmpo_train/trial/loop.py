"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from mmpo_train.config import TrialConfig
from mmpo_train.engines.engine import Engine
from mmpo_train.engines.passes import Passes
from mmpo_train.metric_names import (
    CURVE,
    EPOCH,
    GRADIENT_NORM,
    LEARNING_RATE,
    PAIRS_PER_SECOND,
    STEP_SECONDS,
    TOKENS_PER_SECOND,
    TRAIN,
)
from mmpo_train.model.batches import collate, consecutive, epoch_order, group_rewards, plan_passes
from mmpo_train.model.layouts import is_out_of_memory
from mmpo_train.model.scoring import ScoredTable, score_pairs
from mmpo_train.objectives import Objective, batch_of, build_objective
from mmpo_train.objectives.reference_point import RunningMean, kl_reference_point
from mmpo_train.schedule import learning_rate_at
from mmpo_train.trial.metrics import SATURATED_NATS, validate
from mmpo_train.trial.negatives import drawn_columns, weighted_columns
from mmpo_train.trial.segments import Segment, first_step, prompts_of_segment, segment_of

Report = Callable[[dict[str, float], int], None]
"""Takes metrics and the optimiser step (from 1) they belong to. Called on every worker with the same numbers."""
Publish = Callable[[int, int, RunningMean], None]
"""Takes a finished epoch (from 1), its last step and the reference point: write the checkpoint. On every worker."""
Keep = Callable[[int, int, RunningMean], None]
"""Takes the epochs that are finished, the last step and the reference point: write what a resume from within an epoch
needs. On every worker."""
MakeSegment = Callable[[int, np.ndarray], Segment]
"""Takes a segment's number (from 0) and the places of its prompts. Called on every worker."""


class OutOfMemory(Exception):
    """A pass did not fit into memory, and this engine cannot try a smaller one in the middle of a step."""


class Diverged(Exception):
    """The loss or the gradient is no longer a finite number; a result of the trial, not a fault of the program."""


def train(
    config: TrialConfig,
    train_pairs: ScoredTable,
    validation_pairs: ScoredTable,
    engine: Engine,
    passes: Passes,
    *,
    report: Report,
    publish: Publish,
    keep: Keep = lambda epochs, step, point: None,
    keep_passes: Callable[[Passes], None] = lambda passes: None,
    finished_steps: int = 0,
    reference_point: RunningMean = RunningMean(),  # noqa: B008  (immutable)
    unrelated: ScoredTable | None = None,
    make_segment: MakeSegment | None = None,
) -> None:
    """Optimise until the config's epochs are done, from after step `finished_steps`.

    What is seen, in which order and group, depends on the config alone: not on the number of workers, nor on how many
    pairs fit in a pass, nor on interruptions. `unrelated` has for each prompt one completion of another one (KTO);
    `make_segment` replaces the completions at the start of each segment (online objectives); `keep_passes` is told of
    smaller passes when memory runs out; `keep` is called every `checkpoint_minutes` within an epoch. Raises Diverged
    and OutOfMemory.
    """
    objective = build_objective(config)
    steps_per_epoch = math.ceil(len(train_pairs.table) / config.pairs_per_step)
    total_steps = steps_per_epoch * config.epochs
    current: Segment | None = None
    work = _Work(config, engine, objective, passes, keep_passes)
    kept = time.perf_counter()
    for epoch in range(finished_steps // steps_per_epoch + 1, config.epochs + 1):
        order = epoch_order(len(train_pairs.table), config.seed, epoch)
        present = train_pairs.table.completion_tokens > 0
        rewards = group_rewards(train_pairs.ref_logps, present, order, config.pairs_per_group, objective.rewards)
        for number, prompts in enumerate(consecutive(order, config.pairs_per_step), (epoch - 1) * steps_per_epoch + 1):
            if number <= finished_steps:
                continue
            started = time.perf_counter()
            source, rows = train_pairs, prompts
            segment = segment_of(number, total_steps, config.segments)
            if make_segment is not None:
                if current is None or number == first_step(segment, total_steps, config.segments):
                    current = make_segment(segment, prompts_of_segment(config, len(order), segment))
                    started = time.perf_counter()
                source, rows = current.scored, current.rows_of(prompts)
            columns = work.columns(source, rows, epoch)
            if objective.reference_point == "unrelated":
                assert unrelated is not None
                surveyed = torch.from_numpy(work.logps(unrelated, rows))
                point = kl_reference_point(surveyed, torch.from_numpy(unrelated.ref_logps[rows]), config.beta)
                reference_point = RunningMean(point, 1)
            step = source.take(rows, columns)
            constants = rewards[rows, : columns.shape[1]] if objective.rewards else np.zeros_like(step.ref_logps)
            sums = work.add_gradient(step, constants, reference_point.mean, number)
            learning_rate = learning_rate_at(number - 1, total_steps, config.learning_rate, config.warmup_share)
            metrics = {EPOCH: number / steps_per_epoch, LEARNING_RATE: learning_rate}
            if current is not None and number == first_step(segment, total_steps, config.segments):
                metrics |= current.metrics
            if len(rows):  # an online step whose prompts were all dropped teaches nothing
                _stop_if_not_finite("loss", sums["loss"], number)
                norm = engine.step(learning_rate)
                if norm is not None:
                    _stop_if_not_finite("gradient norm", norm, number)
                    metrics[GRADIENT_NORM] = norm
                metrics |= {f"{TRAIN}{name}": sums[name] / len(rows) for name in _TOTALS if name not in _UNSHOWN}
                if objective.reference_point:
                    metrics[f"{TRAIN}reference_point"] = reference_point.mean
                if objective.reference_point == "mean":
                    reference_point = reference_point.update(sums["score"] / len(rows))
            # Every worker must report the same numbers and write at the same steps: times are the workers' means.
            seconds, since_kept = mean_seconds(engine, started, kept)
            metrics |= {
                PAIRS_PER_SECOND: len(rows) / seconds,
                TOKENS_PER_SECOND: sums["tokens"] / seconds,
                STEP_SECONDS: seconds,
            }
            if number == epoch * steps_per_epoch or number % config.validate_every_steps == 0:
                metrics |= work.validation(validation_pairs, reference_point.mean)
            report(metrics, number)
            if number < epoch * steps_per_epoch and 0 < config.checkpoint_minutes * 60 <= since_kept:
                keep(epoch - 1, number, reference_point)
                kept = time.perf_counter()
        publish(epoch, epoch * steps_per_epoch, reference_point)
        kept = time.perf_counter()


def mean_seconds(engine: Engine, *since: float) -> list[float]:
    """How long ago these times of `perf_counter` were, in the mean over workers; the same on all of them."""
    now = time.perf_counter()
    return (engine.sum(np.array([now - one for one in since])) / engine.workers).tolist()


class _Work:
    """A step's passes, those before it that only look and those that leave a gradient, by all workers together."""

    def __init__(
        self,
        config: TrialConfig,
        engine: Engine,
        objective: Objective,
        passes: Passes,
        keep_passes: Callable[[Passes], None],
    ) -> None:
        self.config, self.engine, self.objective, self.passes = config, engine, objective, passes
        self.keep_passes = keep_passes

    def columns(self, source: ScoredTable, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Which completions of each prompt the step trains on, (n, M + 1), -1 for none."""
        config, objective = self.config, self.objective
        counts = np.array([len(source.table.completions[row]) for row in rows], dtype=np.int64)
        everything = np.where(np.arange(counts.max(initial=2)) < counts[:, None], np.arange(counts.max(initial=2)), -1)
        if objective.choice == "all" or counts.max(initial=2) <= objective.negatives + 1:
            return everything
        if objective.choice == "drawn":
            return drawn_columns(counts, objective.negatives, config.seed, rows)
        scores = config.beta * (self.logps(source, rows) - source.ref_logps[rows])
        return weighted_columns(scores, counts, objective.negatives, objective.choice, config.seed, epoch, rows)

    def logps(self, source: ScoredTable, rows: np.ndarray) -> np.ndarray:
        """log pi_theta of all completions of some prompts, (n, K), fp32, in nats."""
        engine, passes = self.engine, self.passes
        share = score_pairs(
            engine.logps, source.table, rows, passes.tokens, engine.worker, engine.workers, layout=passes.layout
        )
        return engine.sum(share).astype(np.float32)

    def validation(self, pairs: ScoredTable, reference_point: float) -> dict[str, float]:
        """Metrics of the validation pairs under the present policy."""
        logps = self.logps(pairs, np.arange(len(pairs.table)))
        result = validate(self.config, logps, pairs.ref_logps, pairs.table.completion_tokens, reference_point)
        return {f"{CURVE}{name}": value for name, value in result.metrics.items()}

    def add_gradient(
        self, step: ScoredTable, constants: np.ndarray, reference_point: float, number: int
    ) -> dict[str, float]:
        """`accumulate` of a step's prompts, from the beginning with smaller passes where memory runs out.

        Raises OutOfMemory where the engine cannot begin the step again, or a single prompt does not fit.
        """
        while True:
            torch.manual_seed(hash((self.config.seed, number, self.engine.worker)))  # dropout: the same after a resume
            try:
                return accumulate(self.engine, self.objective, step, constants, reference_point, self.passes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                may_recompute = self.config.gradient_checkpointing == "auto"
                smaller = self.passes.smaller(step.table, may_recompute, self.engine.workers)
                what = f"step {number} ran out of memory with passes of {self.passes}"
                if smaller is None:
                    raise OutOfMemory(
                        f"{what}, a prompt each: lower max_prompt_tokens or max_completion_tokens, train LoRA adapters "
                        "(lora_rank), use more workers with zero_stage=3, or a GPU with more memory"
                    ) from error
                self.keep_passes(smaller)
            # Only here, after the error, is its traceback gone, which holds the pass.
            if not self.engine.discard():
                raise OutOfMemory(f"{what}; begun again, the trial takes {smaller}")
            self.passes = smaller
            self.engine.recompute_activations(smaller.checkpointing)


_TOTALS = ("loss", "reward_accuracy", "reward_margin", "rejected_weight", "saturated_share", "score", "tokens")
_UNSHOWN = ("score", "tokens")


def accumulate(
    engine: Engine,
    objective: Objective,
    step: ScoredTable,
    constants: np.ndarray,
    reference_point: float,
    passes: Passes,
) -> dict[str, float]:
    """Forward and backward of a step's prompts, the gradient of their mean loss added to the engine's.

    `constants` (N, K) are the objective's own, from `group_rewards`. Returns sums over the prompts and all workers, by
    name. Every worker calls it with the same arguments.
    """
    totals = np.zeros(len(_TOTALS))
    prompts = np.arange(len(step.table))
    if len(prompts):
        tokens = step.table.completion_tokens
        planned = plan_passes(step.table, prompts, passes.tokens, engine.workers, passes.layout)
        for some in planned[engine.worker :: engine.workers]:
            shown = some if len(some) else prompts[:1]  # an empty pass keeps this worker in step with the others
            weight = 1.0 if len(some) else 0.0
            one = collate(step.table, shown, passes.layout)
            of_completions = torch.atleast_2d(engine.logps(one, objective.entropies))
            logps, *others = (_by_prompt(row, tokens[shown] > 0) for row in of_completions)
            batch = batch_of(logps, step.ref_logps[shown], constants[shown], tokens[shown], reference_point)
            if objective.entropies:
                entropies, prefixes = others
                # The second is there for its gradient: its value is of no meaning and may be millions of nats².
                batch = batch._replace(entropies=entropies + (prefixes - prefixes.detach()))
            losses, scores = objective.loss(batch)
            engine.backward(weight * losses.sum() / len(prompts))
            totals += weight * _totals(losses, scores, tokens[shown], step.table.prompts, shown)
    return dict(zip(_TOTALS, engine.sum(totals), strict=True))


def _by_prompt(logps: torch.Tensor, present: np.ndarray) -> torch.Tensor:
    """Values (C,) of the completions there are, as (B, K) with zeros elsewhere."""
    if present.all():
        return logps.reshape(present.shape)
    places = torch.from_numpy(np.flatnonzero(present)).to(logps.device)
    return logps.new_zeros(present.size).index_copy(0, places, logps).reshape(present.shape)


def _totals(
    losses: torch.Tensor, scores: torch.Tensor, tokens: np.ndarray, prompts: tuple[np.ndarray, ...], shown: np.ndarray
) -> np.ndarray:
    """Sums over some prompts, in the order of `_TOTALS`; a prompt with several rejected counts their mean."""
    values, rejected = scores.double().cpu().numpy(), tokens[:, 1:] > 0
    margins = values[:, :1] - values[:, 1:]

    def total(of_each: np.ndarray) -> float:
        return float((np.where(rejected, of_each, 0.0).sum(axis=1) / rejected.sum(axis=1)).sum())

    return np.array(
        (
            losses.detach().double().sum().item(),
            total(margins > 0),
            total(margins),
            total(1 / (1 + np.exp(np.clip(margins, -500, 500)))),
            total(np.abs(margins) > SATURATED_NATS),
            values[:, :2].mean(axis=1).sum(),
            tokens.sum() + sum(len(prompts[pair]) * (row > 0).sum() for pair, row in zip(shown, tokens, strict=True)),
        ),
        dtype=np.float64,
    )


def _stop_if_not_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {what} is {value} at step {step}")
