"""Settings that go together, by the name of the model they are for."""

from __future__ import annotations

from typing import Any

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


_MC_PO_PAPER = ("rpo", "exo", "cpo", "bco", "kto", "apo", "sppo", "nca", "rnce", "mc_po", "on_mc_po", "online_dpo")


def objective_settings(objective: str) -> dict[str, Any]:
    """The hyper-parameters with which an objective starts where they are not TrialConfig's defaults.

    beta = 0.01 for what the MC-PO paper trained (Appendix B.2), CPO's own weight of 1 (Xu et al. 2024).
    """
    if objective in _MC_PO_PAPER:
        return {"beta": 0.01}
    return {"sft_weight": 1.0} if objective == "cpo_original" else {}


def recipe_for(model: str) -> TrialConfig:
    """The settings a model starts from: `tiny`'s own, and the paper's (Section 4.1, Appendix B.1) for all others."""
    return replace(TrialConfig(), TINY) if model == "tiny" else replace(TrialConfig(), {"model": model})
