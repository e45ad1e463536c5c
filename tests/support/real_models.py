"""Real tokenizers with their templates, and one real model, in the folder that MMPO_REAL_MODELS names."""

import os
from pathlib import Path

import pytest

NAMES = ("smollm2", "llama3", "llama3_2", "qwen2_5")
"""SmolLM2-135M-Instruct with its weights; of Llama 3 (its first template), Llama 3.2 and Qwen 2.5 the tokenizers."""


def real_model(name: str) -> Path:
    """Its folder; the test is skipped where there is none."""
    folder = Path(os.environ.get("MMPO_REAL_MODELS") or "nowhere") / name
    if not folder.is_dir():
        pytest.skip("set MMPO_REAL_MODELS to a folder with the real models")
    return folder
