"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mmpo_train.batches import collate, consecutive, epoch_order, group_rewards, plan_passes
from mmpo_train.config import TrialConfig
from mmpo_train.engine import Engine
from mmpo_train.metrics import SATURATED_NATS, validate
from mmpo_train.objectives import Batch, Objective, build_objective
from mmpo_train.schedule import learning_rate_at
from mmpo_train.scoring import score_pairs
from mmpo_train.tokens import TokenTable

Report = Callable[[dict[str, float], int], None]
"""Takes metrics and the optimiser step (from 1) they belong to. Called on every worker with the same numbers."""
Publish = Callable[[int, int], None]
"""Takes a finished epoch (from 1) and its last step: write the checkpoint. Called on every worker."""


@dataclass(frozen=True)
class ScoredTable:
    """Pairs with their reference log-probabilities, (N, K), fp32."""

    table: TokenTable
    ref_logps: np.ndarray


class Diverged(Exception):
    """The loss or the gradient is no longer a finite number; a result of the trial, not a fault of the program."""


def train(
    config: TrialConfig,
    train_pairs: ScoredTable,
    validation_pairs: ScoredTable,
    engine: Engine,
    *,
    report: Report,
    publish: Publish,
    finished_epochs: int = 0,
) -> None:
    """Optimise until the config's epochs are done, from the end of epoch `finished_epochs`.

    What is seen, in which order and group, depends on the config alone: not on the number of workers, nor on how many
    pairs fit in a pass, nor on interruptions. Raises Diverged.
    """
    objective = build_objective(config)
    table, lengths = train_pairs.table, train_pairs.table.longest
    steps_per_epoch = math.ceil(len(table) / config.pairs_per_step)
    total_steps = steps_per_epoch * config.epochs
    for epoch in range(finished_epochs + 1, config.epochs + 1):
        order = epoch_order(len(table), config.seed, epoch)
        rewards = group_rewards(train_pairs.ref_logps, order, config.pairs_per_group, objective.rewards)
        for number, pairs in enumerate(consecutive(order, config.pairs_per_step), (epoch - 1) * steps_per_epoch + 1):
            started = time.perf_counter()
            torch.manual_seed(hash((config.seed, number, engine.worker)))  # dropout: the same after a resume
            passes = plan_passes(pairs, lengths, len(table.completions[0]), config.tokens_per_pass, engine.workers)
            totals = np.zeros(len(_TOTALS))
            for some in passes[engine.worker :: engine.workers]:
                totals += _run_pass(engine, objective, train_pairs, rewards, some, pairs)
            sums = dict(zip(_TOTALS, engine.sum(totals), strict=True))
            _stop_if_not_finite("loss", sums["loss"], number)
            learning_rate = learning_rate_at(number - 1, total_steps, config.learning_rate, config.warmup_share)
            norm = engine.step(learning_rate)
            if norm is not None:
                _stop_if_not_finite("gradient norm", norm, number)
            seconds = time.perf_counter() - started
            metrics = {f"train/{name}": sums[name] / len(pairs) for name in _TOTALS if name != "tokens"}
            metrics |= {"train/learning_rate": learning_rate} | ({} if norm is None else {"train/gradient_norm": norm})
            # Every worker must report the same numbers, so speed is taken from the workers' mean time.
            seconds = float(engine.sum(np.array([seconds]))[0]) / engine.workers
            metrics |= {
                "train/pairs_per_second": len(pairs) / seconds,
                "train/tokens_per_second": sums["tokens"] / seconds,
            }
            epoch_ends = number == epoch * steps_per_epoch
            if epoch_ends or number % config.validate_every_steps == 0:
                metrics |= _validation(config, validation_pairs, engine)
            report(metrics | {"train/epoch": number / steps_per_epoch, "train/step_seconds": seconds}, number)
        publish(epoch, epoch * steps_per_epoch)


_TOTALS = ("loss", "reward_accuracy", "reward_margin", "rejected_weight", "saturated_share", "tokens")


def _run_pass(
    engine: Engine,
    objective: Objective,
    scored: ScoredTable,
    rewards: np.ndarray,
    some: np.ndarray,
    step_pairs: np.ndarray,
) -> np.ndarray:
    """Forward and backward of some of a step's pairs; returns sums over them, in the order of `_TOTALS`."""
    shown = some if len(some) else step_pairs[:1]  # an empty pass keeps this worker in step with the others
    weight = 1.0 if len(some) else 0.0
    one = collate(scored.table, shown)
    logps = engine.logps(one).reshape(len(shown), -1)
    tokens = np.array([[len(ids) for ids in scored.table.completions[pair]] for pair in shown])
    constants = (
        torch.from_numpy(values).to(logps.device) for values in (scored.ref_logps[shown], rewards[shown], tokens)
    )
    losses, scores = objective.loss(Batch(logps, *constants))
    engine.backward(weight * losses.sum() / len(step_pairs))
    margins = (scores[:, 0] - scores[:, 1]).double().cpu().numpy()
    sums = (
        losses.detach().double().sum().item(),
        (margins > 0).sum(),
        margins.sum(),
        (1 / (1 + np.exp(np.clip(margins, -500, 500)))).sum(),
        (np.abs(margins) > SATURATED_NATS).sum(),
        tokens.sum() + sum(len(scored.table.prompts[pair]) for pair in shown) * tokens.shape[1],
    )
    return weight * np.array(sums, dtype=np.float64)


def _validation(config: TrialConfig, pairs: ScoredTable, engine: Engine) -> dict[str, float]:
    everything = np.arange(len(pairs.table))
    share = score_pairs(engine.logps, pairs.table, everything, config.tokens_per_pass, engine.worker, engine.workers)
    logps = engine.sum(share).astype(np.float32)
    result = validate(config, logps, pairs.ref_logps, pairs.table.completion_tokens)
    return {f"validation_curve/{name}": value for name, value in result.metrics.items()}


def _stop_if_not_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {what} is {value} at step {step}")
