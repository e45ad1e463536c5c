"""The order of the search: which stage decides which field, and the command that comes after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sweeps import grids

DECIDED_IN: Mapping[str, str] = {
    "learning_rate": "stage1_lr",
    "beta": "stage2_beta",
    **dict.fromkeys(grids.MARGINS, "stage3_margin"),
}
"""Tuned field -> the stage whose winner later ones take."""

TUNED = tuple(DECIDED_IN)

SETTLED: Mapping[str, Collection[str]] = {
    "stage1_lr": ("learning_rate",),
    "stage2_beta": ("learning_rate", "beta"),
    "stage3_margin": TUNED,
    "final_runs": (*TUNED, "epochs"),
    "ablations": (*TUNED, *(name for fields in grids.ABLATIONS.values() for name in fields)),
}
"""Script -> what it settles by itself, so that --set is not repeated for it."""

_TAKES: Mapping[str, Collection[str]] = {
    "stage2_beta": ("learning_rate",),
    "stage3_margin": ("learning_rate", "beta"),
    "final_runs": ("learning_rate", *grids.MARGINS),
    "ablations": ("learning_rate", "r_eps"),
}
"""Script -> the fields for which it has an option."""


def next_script(script: str, objective: str) -> str:
    """What follows a script for an objective; empty at the end and for what is no part of the search."""
    if script == "stage1_lr":
        return "stage2_beta"
    if script == "stage2_beta":
        return "stage3_margin" if grids.margin_of(objective) else "final_runs"
    if script == "stage3_margin":
        return "final_runs"
    return "ablations" if script == "final_runs" and objective == "mmpo" else ""
