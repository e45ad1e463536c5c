"""The recipe of `tiny`: everything that determines it, and its fingerprint. Standard library only."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything `tiny` is made from."""

    version: int = 1
    """Raised when the questions, the ways of answering, the tokenizer's corpus or the training change."""
    seed: int = 20
    """Seed of the data, the initial weights and the order of instruction tuning."""

    train_prompts: int = 1024
    """Prompts with a preference pair to train on."""
    validation_prompts: int = 512
    """Prompts, none of them a train prompt, with a preference pair to validate on."""
    demonstrations: int = 16_384
    """Conversations the model is instruction-tuned on; none has a validation prompt."""

    vocabulary_tokens: int = 1536
    """All bytes, the special tokens, and merges."""
    width: int = 160
    layers: int = 3
    heads: int = 5
    mlp_width: int = 384
    max_positions: int = 4096
    initializer_range: float = 0.06
    """Standard deviation of initial weights: 0.02, the habit of wider models, learns much slower at this width."""

    sft_learning_rate: float = 1e-3
    """Peak rate of instruction tuning from scratch."""
    sft_conversations_per_step: int = 16
    """Small steps, many of them: what a model of this size learns fastest from."""


RECIPE = Recipe()

# (is the answer wrong?, how is it put?): share. Terse answers are common in the demonstrations, as with people.
DEMONSTRATED = {
    (False, "good"): 0.27,
    (False, "bare"): 0.18,
    (False, "opened"): 0.05,
    (False, "trailing"): 0.05,
    (False, "doubled"): 0.03,
    (True, "good"): 0.19,
    (True, "bare"): 0.14,
    (True, "opened"): 0.04,
    (True, "trailing"): 0.03,
    (True, "doubled"): 0.02,
}
# Shares chosen so that rejected completions are as long as chosen ones on average.
REJECTED = {
    (True, "good"): 0.44,
    (True, "bare"): 0.04,
    (True, "opened"): 0.06,
    (True, "trailing"): 0.06,
    (False, "bare"): 0.24,
    (False, "opened"): 0.05,
    (False, "trailing"): 0.06,
    (False, "doubled"): 0.05,
}
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

# Ends exactly at the last turn's END, so that a prompt rendered with the generation prompt is a prefix of the
# whole conversation and the completion has one end-of-sequence token.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def fingerprint() -> str:
    """16 hex digits that name the recipe: what is built from equal recipes is interchangeable. Weights do not count:
    their last bits may differ between machines."""
    recipe = [asdict(RECIPE), list(DEMONSTRATED.items()), list(REJECTED.items()), CHAT_TEMPLATE]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
