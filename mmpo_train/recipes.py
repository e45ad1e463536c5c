"""Settings that go together, by the name of the model they are for."""

from __future__ import annotations

from mmpo_train.config import TrialConfig, replace

TINY = {
    "model": "tiny",
    "pairs_per_step": 16,
    "max_prompt_tokens": 256,
    "max_completion_tokens": 128,
    "tokens_per_pass": 4096,
    "validate_every_steps": 32,
}
"""The embedded default: small steps for a small dataset, and lengths that a laptop gets through."""


def recipe_for(model: str) -> TrialConfig:
    """The settings a model starts from: `tiny`'s own, and the paper's (Section 4.1, Appendix B.1) for all others."""
    return replace(TrialConfig(), TINY) if model == "tiny" else replace(TrialConfig(), {"model": model})
