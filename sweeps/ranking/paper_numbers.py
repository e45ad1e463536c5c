"""The numbers of the MMPO paper's Tables 1, 2 and 3, by recipe and objective. Rates and accuracies are in percent."""

from collections.abc import Mapping

MODELS: Mapping[str, str] = {
    "smollm2-135m": "SmolLM2-135M",
    "smollm2-360m": "SmolLM2-360M",
    "llama-3.2-1b": "Llama3.2-1B",
    "llama-3-8b": "Llama3-8B",
}
"""Recipe -> the paper's name (Table 3; Tables 1 and 2 shorten it)."""

PEAK_ACCURACY: Mapping[tuple[str, str], tuple[float, float]] = {
    ("smollm2-135m", "mmpo"): (34.44, 61.86),
    ("smollm2-135m", "dpo"): (33.05, 6.21),
    ("smollm2-360m", "mmpo"): (36.58, 66.47),
    ("smollm2-360m", "dpo"): (36.62, 57.06),
    ("llama-3.2-1b", "mmpo"): (46.69, 64.03),
    ("llama-3.2-1b", "dpo"): (47.67, 46.57),
    ("llama-3-8b", "mmpo"): (56.36, 57.11),
    ("llama-3-8b", "dpo"): (59.19, 64.01),
}
"""Table 1: peak LM Harness accuracy over all betas, and the length-controlled win rate there."""

PEAK_WIN_RATE: Mapping[tuple[str, str], tuple[float, float]] = {
    ("smollm2-135m", "mmpo"): (68.09, 34.08),
    ("smollm2-135m", "dpo"): (16.29, 32.79),
    ("smollm2-360m", "mmpo"): (67.50, 36.53),
    ("smollm2-360m", "dpo"): (71.80, 35.00),
    ("llama-3.2-1b", "mmpo"): (67.32, 43.93),
    ("llama-3.2-1b", "dpo"): (51.45, 43.74),
    ("llama-3-8b", "mmpo"): (63.37, 54.77),
    ("llama-3-8b", "dpo"): (64.53, 57.40),
}
"""Table 2: peak length-controlled win rate over all betas, and the LM Harness accuracy there."""

TUNED: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("smollm2-135m", "mmpo"): {"learning_rate": 5e-4, "r_eps": 0.9},
    ("smollm2-135m", "dpo"): {"learning_rate": 5e-4},
    ("smollm2-135m", "simpo"): {"learning_rate": 1e-4, "gamma_over_beta": 1.6},
    ("smollm2-360m", "mmpo"): {"learning_rate": 5e-4, "r_eps": 0.9},
    ("smollm2-360m", "dpo"): {"learning_rate": 5e-5},
    ("smollm2-360m", "simpo"): {"learning_rate": 1e-4, "gamma_over_beta": 1.6},
    ("llama-3.2-1b", "mmpo"): {"learning_rate": 5e-4, "r_eps": 0.9},
    ("llama-3.2-1b", "dpo"): {"learning_rate": 5e-4},
    ("llama-3.2-1b", "simpo"): {"learning_rate": 5e-4, "gamma_over_beta": 1.0},
    ("llama-3-8b", "mmpo"): {"learning_rate": 1e-4, "r_eps": 0.9},
    ("llama-3-8b", "dpo"): {"learning_rate": 1e-5},
    ("llama-3-8b", "simpo"): {"learning_rate": 1e-4, "gamma_over_beta": 1.0},
}
"""Table 3. Beta is not in it: reward accuracy favoured FAVOURED_BETA for every model (Appendix B.1)."""

FAVOURED_BETA = 0.01


def tuned(recipe: str, objective: str, field: str) -> float | None:
    """The value of a tuned field in Table 3, for beta in the text below it; None if the paper has none."""
    row = TUNED.get((recipe, objective))
    return None if row is None else FAVOURED_BETA if field == "beta" else row.get(field)
