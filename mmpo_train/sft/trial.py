"""One instruction tuning as a value: what starting model learns to answer, from which conversations. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mmpo_train.config import (
    GRADIENT_CHECKPOINTING,
    LAYOUTS,
    OPTIMIZERS,
    PRECISIONS,
    TrialConfig,
    digest_of,
    replace,
    replace_checked,
)
from mmpo_train.recipes import Recipe

TURNS = ("all", "last")


def _runtime(default: Any) -> Any:
    return field(default=default, metadata={"runtime": True})


@dataclass(frozen=True, kw_only=True)
class SFTTrial:
    """Everything that determines one instruction tuning (Section 4.1). All parameters are trained.

    The paper gives data and epochs; learning rates, batch and lengths are those that the data's own authors trained
    with (mmpo_train/recipes.py), schedule and clipping are those of preference training.
    """

    model: str = _runtime("tiny")
    """The model to begin with: `tiny` (random weights), a folder, or a hub id."""
    model_fingerprint: str = ""
    """SHA-256 of its weights, tokenizer and chat template; filled in when the trial is prepared."""
    tokenizer_of: str = _runtime("")
    """Folder or hub id whose tokenizer and chat template are taken where the model has no template of its own."""
    dataset: tuple[str, ...] = _runtime(("tiny",))
    """Conversations: files, folders or hub ids, each `SOURCE[:TRAIN_SPLIT[:VALIDATION_SPLIT]]`; several: a mixture."""
    data_fingerprint: str = ""
    """SHA-256 of the conversations, in order, and of who of them validates; filled in when the trial is prepared."""
    validation_conversations: int = _runtime(1000)
    """At most so many validate: of the validation splits, else held out. Acts through `data_fingerprint`."""
    recipe: str = _runtime("any")
    """The recipe that the tuned model names as its own."""

    learning_rate: float = 2e-5
    """Peak learning rate; warmed up, then a cosine to 0."""
    epochs: int = 1
    """Passes over the conversations."""
    conversations_per_step: int = 128
    """Conversations in one optimiser step, over all workers; its loss is the mean over all their learned tokens."""
    warmup_share: float = 0.1
    """Share of all steps in which the learning rate rises linearly."""
    optimizer: str = "adamw"
    """adamw or adamw_8bit (bitsandbytes)."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this global 2-norm; 0 leaves them alone."""
    max_tokens: int = 2048
    """Longer conversations lose tokens on the right."""
    turns: str = "all"
    """Which of the assistant's turns are learned: all, or last."""
    precision: str = "auto"
    """fp32, bf16 (weights and activations; sums stay fp32), or auto: bf16 where the hardware has it."""
    seed: int = 42
    """Order of the conversations."""

    validate_every_steps: int = _runtime(256)
    """Steps between validations within an epoch; every epoch's end is validated besides."""
    checkpoint_minutes: float = _runtime(15.0)
    """As in TrialConfig, like the fields after it."""
    tokens_per_pass: int = _runtime(0)
    layout: str = _runtime("packed")
    compile: bool = _runtime(False)
    zero_stage: int = _runtime(2)
    gradient_checkpointing: str = _runtime("auto")

    @property
    def digest(self) -> str:
        """Identity of the trial: 16 hex digits over all that changes its result."""
        kept = {spec.name: getattr(self, spec.name) for spec in fields(self) if not spec.metadata.get("runtime")}
        return digest_of({"sft": kept})

    def engine_config(self) -> TrialConfig:
        """What engines, optimisers, the model's loader and the search for passes read of a trial."""
        shared = {spec.name for spec in fields(self)} & {spec.name for spec in fields(TrialConfig)}
        values = {name: getattr(self, name) for name in shared}
        return replace(TrialConfig(), {**values, "pairs_per_step": self.conversations_per_step})


def sft_trial(recipe: Recipe, model: str, values: Mapping[str, Any]) -> SFTTrial:
    """The recipe's instruction tuning of a model, with some fields changed. Raises InputError naming every bad one."""
    return change(SFTTrial(), {"model": model, "recipe": recipe.name, **recipe.sft, **values})


def change(trial: SFTTrial, values: Mapping[str, Any]) -> SFTTrial:
    """A copy with some fields changed, types converted and everything checked."""
    return replace_checked(trial, values, _problems)


def _problems(trial: SFTTrial) -> Iterable[str]:
    for name, allowed in (
        ("optimizer", OPTIMIZERS),
        ("precision", PRECISIONS),
        ("layout", LAYOUTS),
        ("gradient_checkpointing", GRADIENT_CHECKPOINTING),
        ("turns", TURNS),
        ("zero_stage", (0, 1, 2, 3)),
    ):
        if getattr(trial, name) not in allowed:
            yield f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(trial, name)!r}"
    if not (math.isfinite(trial.learning_rate) and trial.learning_rate > 0):
        yield f"learning_rate must be a finite number above 0, got {trial.learning_rate}"
    for name in ("weight_decay", "max_gradient_norm", "checkpoint_minutes"):
        value = getattr(trial, name)
        if not (math.isfinite(value) and value >= 0):
            yield f"{name} must be a finite number of at least 0, got {value}"
    if not 0 <= trial.warmup_share < 1:
        yield f"warmup_share must be at least 0 and below 1, got {trial.warmup_share}"
    positive = ("epochs", "conversations_per_step", "validation_conversations", "max_tokens", "validate_every_steps")
    for name in positive:
        if getattr(trial, name) < 1:
            yield f"{name} must be at least 1, got {getattr(trial, name)}"
    if trial.tokens_per_pass < 0:
        yield f"tokens_per_pass must be 0 (found by trying) or more, got {trial.tokens_per_pass}"
    if not 0 <= trial.seed < 2**32:
        yield f"seed must be at least 0 and below 2**32, got {trial.seed}"
    if not trial.model or not trial.dataset or not all(trial.dataset):
        yield "model and dataset must each name at least one source"
