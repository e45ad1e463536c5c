"""A model kept on its device from one checkpoint folder to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmpo_train.logps import CompletionLogps
from mmpo_train.policy import load_model, load_weights
from mmpo_train.scoring import model_forward

# Two folders that agree on these differ in weights only.
_ARCHITECTURE_FILES = ("config.json", "generation_config.json")


class WarmModel:
    """Loads folder after folder; where only the weights differ, they are exchanged in place."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = None
        self._loaded: tuple[str, ...] = ()

    def load(self, folder: Path, precision: str) -> Any:
        """The folder's model in "fp32" or "bf16", on the device; folders of LoRA adapters too.

        What an earlier call returned is the same object or no longer in use. Raises InputError as `load_model` does.
        """
        same = (precision, *_architecture(folder))
        if len(same) > 1 and same == self._loaded:
            load_weights(self.model, folder)
        else:
            self.model, self._loaded = None, ()  # two models at a time need not fit
            self.model = load_model(folder)
            self._loaded = same
        model_forward(CompletionLogps(self.model), self.device, precision)  # moves and rounds the model in place
        return self.model.eval()


def _architecture(folder: Path) -> tuple[str, ...]:
    """What the weights must fit; empty for LoRA adapters, which are loaded onto their base each time."""
    if (folder / "adapter_config.json").is_file():
        return ()
    paths = [folder / name for name in _ARCHITECTURE_FILES]
    return tuple(path.read_text() if path.is_file() else "" for path in paths)
