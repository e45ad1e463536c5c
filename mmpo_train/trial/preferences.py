"""Preference pairs as a `Task`: a step's completions and constants, its loss over passes, its validation."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmpo_train.config import TrialConfig
from mmpo_train.data.tokens import TokenTable
from mmpo_train.devices import fetched, moved
from mmpo_train.engines.engine import Engine
from mmpo_train.engines.passes import Passes
from mmpo_train.errors import InputError
from mmpo_train.model.batches import collate, epoch_order, group_rewards, plan_passes
from mmpo_train.model.scoring import ScoredTable, score_pairs
from mmpo_train.objectives import Objective, batch_of, build_objective
from mmpo_train.objectives.reference_point import RunningMean, kl_reference_point
from mmpo_train.trial.loop import Step
from mmpo_train.trial.metrics import SATURATED_NATS, validate
from mmpo_train.trial.negatives import drawn_columns, weighted_columns
from mmpo_train.trial.segments import Segment, first_step, prompts_of_segment, segment_of

MakeSegment = Callable[[int, np.ndarray], Segment]
"""Receives a segment's number (from 0) and the positions of its prompts. Called on every worker."""


_OFF_REFERENCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Nats a token by which an untrained policy may differ from its stored reference: passes are cut in another way, and
rounding is another then."""


class Preferences:
    """The `Task` of a preference objective. Groups and steps depend on the config alone."""

    examples = "pairs"
    advice = (
        "lower max_prompt_tokens or max_completion_tokens, train LoRA adapters (lora_rank), use more workers with "
        "zero_stage=3, or a GPU with more memory"
    )

    def __init__(
        self,
        config: TrialConfig,
        train_pairs: ScoredTable,
        validation_pairs: ScoredTable,
        engine: Engine,
        *,
        reference_point: RunningMean = RunningMean(),  # noqa: B008  (immutable)
        unrelated: ScoredTable | None = None,
        make_segment: MakeSegment | None = None,
    ) -> None:
        """`unrelated` has one completion of another prompt for each prompt (KTO). `make_segment` replaces the
        completions at the start of each segment (online objectives)."""
        self.config, self.engine, self.objective = config, engine, build_objective(config)
        self.train_pairs, self.validation_pairs, self.unrelated = train_pairs, validation_pairs, unrelated
        self.reference_point, self.make_segment = reference_point, make_segment
        self.epoch, self.rewards = 0, np.zeros_like(train_pairs.ref_logps)
        self.segment: Segment | None = None

    def __len__(self) -> int:
        return len(self.train_pairs.table)

    @property
    def tried(self) -> TokenTable:
        return self.train_pairs.table

    def begin_epoch(self, epoch: int) -> np.ndarray:
        order = epoch_order(len(self), self.config.seed, epoch)
        tokens = self.train_pairs.table.completion_tokens
        groups = self.config.pairs_per_group, self.objective.rewards
        reference = self.objective.of_reference(self.train_pairs.ref_logps, tokens)
        self.rewards = group_rewards(reference, tokens > 0, order, *groups)
        self.epoch = epoch
        return order

    def get_ready(self, step: int) -> None:
        if self.make_segment is not None and (self.segment is None or self._begins_segment(step)):
            number = segment_of(step, self._total_steps, self.config.segments)
            self.segment = self.make_segment(number, prompts_of_segment(self.config, len(self), number))

    def step_of(self, examples: np.ndarray, number: int, passes: Passes) -> Step:
        config, objective = self.config, self.objective
        source, rows, metrics = self.train_pairs, examples, {}
        if self.segment is not None:
            source, rows = self.segment.scored, self.segment.rows_of(examples)
            metrics = self.segment.metrics if self._begins_segment(number) else {}
        columns = self._columns(source, rows, passes)
        if objective.reference_point == "unrelated":
            assert self.unrelated is not None
            surveyed = torch.from_numpy(self._logps(self.unrelated, rows, passes))
            point = kl_reference_point(surveyed, torch.from_numpy(self.unrelated.ref_logps[rows]), config.beta)
            self.reference_point = RunningMean(point, 1)
        pairs = source.take(rows, columns)
        constants = self.rewards[rows, : columns.shape[1]] if objective.rewards else np.zeros_like(pairs.ref_logps)
        return Step(pairs.table, partial(self._add_gradient, number, pairs, constants), metrics)

    def validation(self, passes: Passes) -> dict[str, float]:
        pairs = self.validation_pairs
        logps = self._logps(pairs, np.arange(len(pairs.table)), passes)
        point = self.reference_point.mean
        return validate(self.config, logps, pairs.ref_logps, pairs.table.completion_tokens, point).metrics

    @property
    def _total_steps(self) -> int:
        return math.ceil(len(self) / self.config.pairs_per_step) * self.config.epochs

    def _begins_segment(self, step: int) -> bool:
        segments = self.config.segments
        return step == first_step(segment_of(step, self._total_steps, segments), self._total_steps, segments)

    def _columns(self, source: ScoredTable, rows: np.ndarray, passes: Passes) -> np.ndarray:
        """Columns of the completions that the step trains on, (n, M + 1), -1 for none."""
        config, objective = self.config, self.objective
        counts = np.array([len(source.table.completions[row]) for row in rows], dtype=np.int64)
        everything = np.where(np.arange(counts.max(initial=2)) < counts[:, None], np.arange(counts.max(initial=2)), -1)
        nothing_to_choose = counts.max(initial=2) <= objective.negatives + 1 and not objective.chosen_is_candidate
        if objective.choice == "all" or nothing_to_choose:
            return everything
        if objective.choice == "drawn":
            return drawn_columns(counts, objective.negatives, config.seed, rows)
        scores = config.beta * (self._logps(source, rows, passes) - source.ref_logps[rows])
        drawn = objective.negatives, objective.choice, config.seed, self.epoch, rows, objective.chosen_is_candidate
        return weighted_columns(scores, counts, *drawn)

    def _logps(self, source: ScoredTable, rows: np.ndarray, passes: Passes) -> np.ndarray:
        """log pi_theta of all completions of some prompts, (n, K), fp32, in nats."""
        engine = self.engine
        share = score_pairs(
            engine.logps, source.table, rows, passes.tokens, engine.worker, engine.workers, layout=passes.layout
        )
        return engine.sum(share).astype(np.float32)

    def _add_gradient(self, number: int, pairs: ScoredTable, constants: np.ndarray, passes: Passes) -> dict[str, float]:
        sums = accumulate(self.engine, self.objective, pairs, constants, self.reference_point.mean, passes)
        off = sums.pop("off_reference") / max(1, pairs.table.completion_tokens.sum())
        if number == 1:
            _require_reference(off, self.config.precision)
        means = {name: total / max(1, len(pairs.table)) for name, total in sums.items()} | {"tokens": sums["tokens"]}
        score = means.pop("score")
        if self.objective.reference_point:
            means["reference_point"] = self.reference_point.mean
        if self.objective.reference_point == "mean" and len(pairs.table):
            self.reference_point = self.reference_point.update(score)
        return means


def _require_reference(off: float, precision: str) -> None:
    """Raise InputError if an untrained policy is `off` nats per token away from its reference, and that is too much."""
    if _OFF_REFERENCE["bf16" if precision == "bf16" else "fp32"] < off < math.inf:
        raise InputError(
            f"before its first step the policy's log-probabilities are {off:.3g} nats a token off those stored of its "
            "reference, though both are the starting model: its folder, or what is stored, has changed since; remove "
            "the folder `reference` of the storage, and see that the model's folder is whole"
        )


_TOTALS = (
    *("loss", "reward_accuracy", "reward_margin", "rejected_weight", "saturated_share", "score", "tokens"),
    "off_reference",
)


class _Seen(NamedTuple):
    """A pass, for what is told of a step: the device's results are fetched when it has all of them."""

    prompts: np.ndarray
    losses: Tensor
    scores: Tensor
    logps: Tensor


def accumulate(
    engine: Engine,
    objective: Objective,
    step: ScoredTable,
    constants: np.ndarray,
    reference_point: float,
    passes: Passes,
) -> dict[str, float]:
    """Sums over a step's prompts and all workers, by name, after adding the gradient of their mean loss. `constants`
    (N, K) are the objective's own, from `group_rewards`. Every worker calls it with the same arguments."""
    seen: list[_Seen] = []
    prompts, tokens = np.arange(len(step.table)), step.table.completion_tokens
    if len(prompts):
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
            if len(some):
                seen.append(_Seen(some, losses.detach(), scores, logps.detach()))
    return dict(zip(_TOTALS, engine.sum(_totals(step, seen)), strict=True))


def _by_prompt(logps: Tensor, present: np.ndarray) -> Tensor:
    """Values (C,) of the existing completions, as (B, K) with zeros elsewhere."""
    if present.all():
        return logps.reshape(present.shape)
    places = moved(torch.from_numpy(np.flatnonzero(present)), logps.device)
    return logps.new_zeros(present.size).index_copy(0, places, logps).reshape(present.shape)


def _totals(step: ScoredTable, seen: Sequence[_Seen]) -> np.ndarray:
    """Sums over the prompts of some passes, in the order of `_TOTALS`; of several rejected completions the mean counts.
    `off_reference` is the sum of |log pi_theta - log pi_ref| over all completions."""
    totals = np.zeros(len(_TOTALS))
    if not seen:
        return totals
    values = fetched([tensor for one in seen for tensor in (one.losses, one.scores, one.logps)])
    for shown, *_ in seen:
        losses, scores, logps = values.pop(0), values.pop(0).numpy(), values.pop(0).numpy()
        tokens = step.table.completion_tokens[shown]
        rejected, prompts = tokens[:, 1:] > 0, [len(step.table.prompts[pair]) for pair in shown]
        margins = scores[:, :1] - scores[:, 1:]

        def total(of_each: np.ndarray, rejected: np.ndarray = rejected) -> float:
            return float((np.where(rejected, of_each, 0.0).sum(axis=1) / rejected.sum(axis=1)).sum())

        totals += (
            losses.sum().item(),
            total(margins > 0),
            total(margins),
            total(1 / (1 + np.exp(np.clip(margins, -500, 500)))),
            total(np.abs(margins) > SATURATED_NATS),
            scores[:, :2].mean(axis=1).sum(),
            tokens.sum() + (np.array(prompts) * (tokens > 0).sum(axis=1)).sum(),
            np.abs(logps - step.ref_logps[shown])[tokens > 0].sum(),
        )
    return totals
