"""The grids of both papers, from Appendix B.1 of each."""

from collections.abc import Mapping
from typing import Any

from mmpo_train.config import OBJECTIVE_FIELDS

LEARNING_RATES = (5e-4, 1e-4, 5e-5, 1e-5, 5e-6, 1e-6)
"""Stage 1, with the search's settings below."""

BETAS = (0.01, 0.05, 0.1, 0.5)
"""Stage 2, at the selected learning rate."""

MARGINS: Mapping[str, tuple[float, ...]] = {
    "r_eps": tuple(tenths / 10 for tenths in range(11)),
    "gamma_over_beta": (0.3, 0.5, 1.0, 1.2, 1.4, 1.6),
}
"""Stage 3, at the selected learning rate and beta: MMPO's and SimPO's."""

SEARCH_EPOCHS = 2
SEARCH_SETTINGS = {"epochs": SEARCH_EPOCHS, "beta": 0.1, "r_eps": 0.6, "gamma_over_beta": 1.2}
"""Fields that a stage fixes if no earlier one chose them: beta, r_eps for MMPO, gamma/beta for SimPO."""

FINAL_BETAS = (0.01, 0.05, 0.5)
FINAL_EPOCHS = 5
"""The final runs, at the selected learning rate and margin."""

ABLATION_BETA = 0.05
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "no aux": {"auxiliary": False},
    "no norm": {"in_batch_normalised": False},
    "len norm": {"length_normalised": True},
    "entropy": {"entropy": True},
}
"""Section 5, Figure 3: MMPO without its DPO-style auxiliary term, without in-batch normalisation, with length
normalisation, with entropy maximisation (Appendix B.2)."""

QUICK_LEARNING_RATES = (5e-4, 5e-5)
QUICK_BETAS = (0.05, 0.1)
QUICK_MARGINS: Mapping[str, tuple[float, ...]] = {"r_eps": (0.2, 0.6), "gamma_over_beta": (0.3, 1.2)}
QUICK_EPOCHS = 1
"""Epochs of search and ablations in `sweeps/paper.py --quick`: the whole pipeline in minutes, without a useful
result."""
QUICK_FINAL_BETAS = (0.05,)
QUICK_FINAL_EPOCHS = 2

MC_PO_LEARNING_RATES = (8e-7, 1e-6, 2e-6, 5e-6, 8e-6, 1e-5, 2e-5)
"""Seven rates, each with three seeds. The paper says seven and prints 8e-7 twice: the second is read as 8e-6."""

MC_PO_METHODS = ("dpo", "rpo", "exo", "simpo", "cpo", "bco", "kto", "apo", "sppo", "nca", "mc_po", "on_mc_po")
"""The methods of Table 1, in its order."""


def margin_of(objective: str) -> str:
    """The field that stage 3 tunes for an objective; empty if it has none."""
    return next((name for name in MARGINS if name in OBJECTIVE_FIELDS.get(objective, ())), "")


def mc_po_learning_rates(model: str) -> tuple[float, ...]:
    """The seven rates; for `tiny`, which needs larger steps than an 8B model, a hundred times as large."""
    return tuple(100 * rate for rate in MC_PO_LEARNING_RATES) if model == "tiny" else MC_PO_LEARNING_RATES


def usual_learning_rates(model: str) -> tuple[float, ...]:
    """The learning rate of a study if none was tuned."""
    return (2e-4,) if model == "tiny" else (2e-6,)


AXES: dict[str, tuple[float | str, ...]] = {
    "learning_rate": LEARNING_RATES,
    "beta": BETAS,
    **MARGINS,
    "pairs_per_group": (2, 8, 32),
    "auxiliary": (True, False),
    "in_batch_normalised": (True, False),
    "length_normalised": (False, True),
    "reference_length_normalised": (False, True),
    "entropy": (False, True),
    "gamma": (0.0, 1.0, 10.0),
    "sft_weight": (0.01, 0.1, 1.0),
    "label_smoothing": (1e-4, 1e-3, 1e-2, 1e-1),
    "desirable_weight": (0.5, 1.0, 1.5),
    "undesirable_weight": (0.5, 1.0, 1.5),
    "negatives": (1, 2, 3),
    "negative_choice": ("kernel", "max", "min"),
    "chosen_is_candidate": ("false", "true"),
    "segments": (1, 3, 6),
}
"""Default grids of `sweeps/axis.py`: the papers' if they have one."""
