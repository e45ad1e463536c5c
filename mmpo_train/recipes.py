"""Settings by model: the paper's four models, `tiny`, and `any` for all others."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpo_train.config import SFT, TrialConfig, nearest, replace
from mmpo_train.errors import InputError
from mmpo_train.storage.mirror import bring
from mmpo_train.storage.object_store import is_address
from mmpo_train.tiny.recipe import RECIPE as TINY

SETTINGS = ("paper", "author")
"""`paper` follows the paper's text, `author` its author's published code."""

ORCA = "HuggingFaceH4/orca_dpo_pairs:train_prefs:test_prefs"
ULTRAFEEDBACK = "HuggingFaceH4/ultrafeedback_binarized:train_prefs:test_prefs"
PREFERENCES = (ORCA, ULTRAFEEDBACK)
"""Data of all four models (Section 4.1): 12,359 + 61,135 pairs to train on, 500 + 2,000 to validate on."""

MERGED_PREFERENCES = (
    *PREFERENCES,
    "HuggingFaceH4/ultrafeedback_binarized:train_sft:test_sft",
    "HuggingFaceH4/ultrafeedback_binarized:train_gen:test_gen",
)
"""Data of the author's Llama runs: 195,764 pairs, because a bare data folder merged three splits of UltraFeedback."""

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")

# The author's pipeline, for every model.
_AUTHOR = {
    "truncation": "total",
    "completion_rendering": "alone_with_eos",
    "reference_length_normalised": True,
    "pairs_per_group": 2,  # each device took minimum and maximum over its own two pairs
}
_LORA = {"lora_rank": 64, "lora_alpha": 64, "lora_dropout": 0.01, "optimizer": "adamw_8bit"}
_SMOL_SFT = {
    "dataset": "HuggingFaceTB/smol-smoltalk:train:test",
    "epochs": 2,
    # The paper gives none; these are SmolLM2's own (alignment-handbook, recipes/smollm2/sft/config_smol.yaml).
    "learning_rate": 1e-3,
    "max_tokens": 8192,
    "tokenizer_of": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
_ULTRACHAT = "HuggingFaceH4/ultrachat_200k:train_sft:test_sft"
# The paper gives no rate for Llama 3.2; both data sets' own publications trained with these (SimPO, MambaInLlama).
_LLAMA_SFT: dict[str, Any] = {"dataset": _ULTRACHAT, "learning_rate": 2e-5, "max_tokens": 2048}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one model. Other fields keep the defaults of TrialConfig and SFTTrial."""

    name: str
    """The value for `--recipe`."""
    models: tuple[str, ...] = ()
    """Hub ids that get this recipe, in lower case."""
    dataset: tuple[str, ...] = ("tiny",)
    """Preference data if `--dataset` is not given."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrialConfig that the recipe sets."""
    author: Mapping[str, Any] = field(default_factory=lambda: dict(_AUTHOR))
    """Fields of TrialConfig, `dataset` among them, in which the author's code differs."""
    sft: Mapping[str, Any] = field(default_factory=lambda: {"dataset": "tiny"})
    """Fields of SFTTrial for the instruction tuning of its starting model."""
    workers: int = 1
    """Workers of one trial, on one machine. Their number changes the speed of a trial and not its result."""
    accelerator: str = ""
    """GPU type of the workers, as the paper names it; empty for any."""

    def preference_data(self, settings: str) -> tuple[str, ...]:
        """The data sources for the settings `paper` or `author`."""
        return self.author.get("dataset", self.dataset) if settings == "author" else self.dataset

    def trial_fields(self, settings: str) -> dict[str, Any]:
        """The fields for the settings `paper` or `author`, without the data."""
        differing = self.author if settings == "author" else {}
        return {name: value for name, value in {**self.settings, **differing}.items() if name != "dataset"}


_ON_L40: dict[str, Any] = {"workers": 4, "accelerator": "L40", "dataset": PREFERENCES}
_ON_H100 = _ON_L40 | {"accelerator": "H100"}
_TINY = {"pairs_per_step": 16, "max_prompt_tokens": 256, "max_completion_tokens": 128, "validate_every_steps": 32}
_TINY_SFT = {
    "dataset": "tiny",
    "learning_rate": TINY.sft_learning_rate,
    "conversations_per_step": TINY.sft_conversations_per_step,
    "max_tokens": 512,
    "validation_conversations": 200,
}
_RECIPES = (
    Recipe(name="tiny", models=("tiny",), settings=_TINY, sft=_TINY_SFT),
    *(
        Recipe(name=name, models=(f"huggingfacetb/{name}", f"huggingfacetb/{name}-instruct"), sft=_SMOL_SFT, **_ON_L40)
        for name in ("smollm2-135m", "smollm2-360m")
    ),
    Recipe(
        name="llama-3.2-1b",
        models=("meta-llama/llama-3.2-1b", "meta-llama/llama-3.2-1b-instruct"),
        settings={**_LORA, "lora_targets": (*ATTENTION, *FEED_FORWARD)},
        author={**_AUTHOR, "dataset": MERGED_PREFERENCES},
        sft={
            **_LLAMA_SFT,
            "dataset": (_ULTRACHAT, "JunxiongWang/sftdatasetv3:train:test"),
            "epochs": 3,
            "tokenizer_of": "meta-llama/Llama-3.2-1B-Instruct",
        },
        **_ON_L40,
    ),
    Recipe(
        name="llama-3-8b",
        models=(
            "princeton-nlp/llama-3-base-8b-sft",
            "meta-llama/meta-llama-3-8b",
            "meta-llama/meta-llama-3-8b-instruct",
        ),
        settings={**_LORA, "lora_targets": ATTENTION},
        author={**_AUTHOR, "dataset": MERGED_PREFERENCES},
        # How SimPO's authors made their public model, which the paper starts from.
        sft=_LLAMA_SFT | {"epochs": 1, "tokenizer_of": "meta-llama/Meta-Llama-3-8B-Instruct"},
        **_ON_H100,
    ),
    Recipe(name="any"),
)
RECIPES = {recipe.name: recipe for recipe in _RECIPES}
"""Section 4.1 and Appendix B.1; `any`, for other models, has the paper's batch size and lengths, and AdamW."""

_MC_PO_PAPER = ("rpo", "exo", "cpo", "bco", "kto", "apo", "sppo", "nca", "rnce", "mc_po", "on_mc_po", "online_dpo")


def objective_settings(objective: str) -> dict[str, Any]:
    """The hyper-parameters of an objective whose defaults differ from TrialConfig's. beta = 0.01 for the MC-PO paper's
    objectives (its Appendix B.2); CPO's own weight of 1 (Xu et al. 2024)."""
    if objective in _MC_PO_PAPER:
        return {"beta": 0.01}
    return {"sft_weight": 1.0} if objective == "cpo_original" else {}


def find_recipe(model: str, name: str = "") -> Recipe:
    """The recipe of that name; without a name the recipe of the hub id, or the one that stage 0 recorded in the folder.
    Other models get `any`. Raises InputError for an unknown name."""
    if name:
        if name.lower() not in RECIPES:
            raise InputError(f"--recipe {name!r} is unknown{nearest(name.lower(), RECIPES)}")
        return RECIPES[name.lower()]
    known = next((recipe for recipe in RECIPES.values() if model.lower() in recipe.models), None)
    return known or RECIPES.get(_tuned_by(model), RECIPES["any"])


def recipe_for(model: str, name: str = "", settings: str = "paper") -> TrialConfig:
    """The recipe's trial config for a model, its data not yet set. Raises InputError for unknown names."""
    if settings not in SETTINGS:
        raise InputError(f"--settings {settings!r} is unknown{nearest(settings, SETTINGS)}")
    return replace(TrialConfig(), {"model": model, **find_recipe(model, name).trial_fields(settings)})


def _tuned_by(model: str) -> str:
    """The recipe that the folder of an instruction-tuned model records; empty for any other model."""
    try:
        folder = bring(model) if is_address(model) else Path(model).expanduser()
        return str(json.loads((folder / SFT).read_text())["config"]["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
