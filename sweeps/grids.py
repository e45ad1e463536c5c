"""The grids of both papers: Appendix B.1 of MMPO's, and of MC-PO's."""

from __future__ import annotations

LEARNING_RATES = (5e-4, 1e-4, 5e-5, 1e-5, 5e-6, 1e-6)
"""Stage 1, with epochs = 2 and the objectives' defaults below."""

STAGE1_SETTINGS = {"epochs": 2, "beta": 0.1, "r_eps": 0.6, "gamma_over_beta": 1.2}
"""beta for MMPO, DPO and SimPO, r_eps for MMPO, gamma/beta for SimPO."""

MC_PO_LEARNING_RATES = (8e-7, 1e-6, 2e-6, 5e-6, 8e-6, 1e-5, 2e-5)
"""Seven, with three seeds each. The paper prints 8e-7 twice and says seven: the second is read as 8e-6."""

MC_PO_METHODS = (
    "dpo",
    "rpo",
    "exo",
    "simpo",
    "cpo",
    "bco",
    "kto",
    "apo",
    "sppo",
    "nca",
    "mc_po",
    "on_mc_po",
)
"""Table 1, in its order."""


def mc_po_learning_rates(model: str) -> tuple[float, ...]:
    """The seven; for `tiny`, which wants larger steps than an 8B model, a hundred times as large."""
    return tuple(100 * rate for rate in MC_PO_LEARNING_RATES) if model == "tiny" else MC_PO_LEARNING_RATES


def usual_learning_rates(model: str) -> tuple[float, ...]:
    """One that a study trains with where nothing was tuned."""
    return (2e-4,) if model == "tiny" else (2e-6,)


AXES: dict[str, tuple[float | str, ...]] = {
    "learning_rate": LEARNING_RATES,
    "beta": (0.01, 0.05, 0.1, 0.5),
    "r_eps": tuple(tenths / 10 for tenths in range(11)),
    "gamma_over_beta": (0.3, 0.5, 1.0, 1.2, 1.4, 1.6),
    "pairs_per_group": (2, 8, 32),
    "length_normalised": ("false", "true"),
    "gamma": (0.0, 1.0, 10.0),
    "sft_weight": (0.01, 0.1, 1.0),
    "label_smoothing": (1e-4, 1e-3, 1e-2, 1e-1),
    "desirable_weight": (0.5, 1.0, 1.5),
    "undesirable_weight": (0.5, 1.0, 1.5),
    "negatives": (1, 2, 3),
    "negative_choice": ("kernel", "max", "min"),
    "segments": (1, 3, 6),
}
"""What `sweeps/axis.py` tries where nothing else is asked for: the papers' grids where they have one."""
