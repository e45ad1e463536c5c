"""One instruction tuning as a value: its model, conversations and hyper-parameters. Standard library only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmpo_train.config import TrialConfig, digest_of, field_problems, replace, replace_checked, runtime
from mmpo_train.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class SFTTrial:
    """Everything that determines one instruction tuning (Section 4.1). All parameters are trained.

    The paper gives data and epochs. Learning rates, batch sizes and lengths are those of the data's own authors
    (mmpo_train/recipes.py); schedule and clipping are those of preference training. TrialConfig explains the fields
    that have no line here.
    """

    model: str = runtime("tiny")
    """Pre-trained model: `tiny` (random weights), a folder, or a hub id."""
    model_fingerprint: str = ""
    """SHA-256 of its weights, tokenizer and chat template; filled in when the trial is prepared."""
    tokenizer_of: str = runtime("")
    """Folder or hub id of the tokenizer and chat template to use if the model has no chat template."""
    dataset: tuple[str, ...] = runtime(("tiny",))
    """Conversations: files, folders or hub ids, each `SOURCE[#CONFIG][:TRAIN_SPLIT[:VALIDATION_SPLIT]]`."""
    data_fingerprint: str = ""
    """SHA-256 of the conversations in order, and of which of them validate; filled in when the trial is prepared."""
    validation_conversations: int = runtime(1000)
    """Most conversations to validate on: from the validation splits, or else held out of the training data."""
    recipe: str = runtime("any")
    """Name of the recipe, which the tuned model's folder records."""

    learning_rate: float = 2e-5
    """Peak learning rate."""
    epochs: int = 1
    """Passes over the conversations."""
    conversations_per_step: int = 128
    """Conversations in one optimiser step, over all workers; the loss is the mean over their learned tokens."""
    warmup_share: float = 0.1
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    max_tokens: int = 2048
    """Longest conversation in tokens; longer ones are cut on the right."""
    turns: str = "all"
    """The assistant's turns to learn: all or last."""
    precision: str = "auto"
    seed: int = 42
    """Seed of the order of the conversations."""

    validate_every_steps: int = runtime(256)
    checkpoint_minutes: float = runtime(15.0)
    tokens_per_pass: int = runtime(0)
    layout: str = runtime("packed")
    compile: str = runtime("auto")
    zero_stage: int = runtime(2)
    gradient_checkpointing: str = runtime("auto")

    @property
    def digest(self) -> str:
        """The trial's name: 16 hex digits of the SHA-256 over everything that changes its result."""
        kept = {spec.name: getattr(self, spec.name) for spec in fields(self) if not spec.metadata.get("runtime")}
        return digest_of({"sft": kept})

    def engine_config(self) -> TrialConfig:
        """The fields that a preference trial has too, for engines, optimisers, the model's loader and the passes."""
        shared = {spec.name for spec in fields(self)} & {spec.name for spec in fields(TrialConfig)}
        values = {name: getattr(self, name) for name in shared}
        return replace(TrialConfig(), {**values, "pairs_per_step": self.conversations_per_step})


def sft_trial(recipe: Recipe, model: str, values: Mapping[str, Any]) -> SFTTrial:
    """The recipe's instruction tuning of a model, with some fields changed. Raises InputError naming every bad one."""
    return change(SFTTrial(), {"model": model, "recipe": recipe.name, **recipe.sft, **values})


def change(trial: SFTTrial, values: Mapping[str, Any]) -> SFTTrial:
    """A copy with some fields changed, types converted and everything checked."""
    return replace_checked(trial, values, _problems)


def _problems(trial: SFTTrial) -> Iterator[str]:
    yield from field_problems(trial)
    if not trial.model or not trial.dataset or not all(trial.dataset):
        yield "model and dataset must each name at least one source"
