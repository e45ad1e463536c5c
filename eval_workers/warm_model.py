"""A model kept on its device from one checkpoint folder to the next."""

import re
from pathlib import Path
from typing import Any

import torch

from mmpo_train.devices import own_device
from mmpo_train.model.folders import ADAPTERS, base_of, model_files
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, load_weights
from mmpo_train.model.scoring import model_forward
from mmpo_train.storage.mirror import place_of

# Two folders that agree on these differ in weights only.
_ARCHITECTURE_FILES = ("config.json", "generation_config.json")
_ADAPTER_CONFIG = "adapter_config.json"


class WarmModel:
    """Loads one folder after the other. If only weights or LoRA adapters differ, they are exchanged in place."""

    def __init__(self) -> None:
        self.device = own_device()
        self.model: Any = None
        self._loaded: tuple[str, ...] = ()

    def load(self, folder: Path, precision: str) -> Any:
        """The model of a folder, which may hold LoRA adapters, in "fp32" or "bf16" on the device. A model returned
        earlier may be the same object and must no longer be used. Raises InputError as `load_model`."""
        same = (precision, *_architecture(folder))
        if not (same == self._loaded and self._exchange(folder)):
            self.model, self._loaded = None, ()  # two models at a time need not fit
            self.model = load_model(folder, precision=precision, device=self.device)
            self._loaded = same
        model_forward(CompletionLogps(self.model), self.device, precision)  # moves and rounds the model in place
        return self.model.eval()

    def _exchange(self, folder: Path) -> bool:
        """Whether the loaded weights were replaced by the folder's."""
        if not (folder / _ADAPTER_CONFIG).is_file():
            load_weights(self.model, folder)
            return True
        return _load_adapter(self.model, folder / ADAPTERS)


def _architecture(folder: Path) -> tuple[str, ...]:
    """The files that weights must match: the configuration; for LoRA adapters, theirs and the state of the base."""
    if not (folder / _ADAPTER_CONFIG).is_file():
        paths = [folder / name for name in _ARCHITECTURE_FILES]
        return tuple(path.read_text() if path.is_file() else "" for path in paths)
    text = (folder / _ADAPTER_CONFIG).read_text()
    base = base_of(folder)
    files = model_files(place_of(base)) if base and place_of(base).is_dir() else []
    return text, *(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)


def _load_adapter(model: Any, path: Path) -> bool:
    """Whether an adapter's tensors replaced the model's. If they do not fit, nothing is changed."""
    from safetensors.torch import load_file

    if not path.is_file():
        return False
    there = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    # PEFT saves `base_model.model.X.lora_A.weight`; in the model it is `X.lora_A.default.weight`.
    saved = ((name.removeprefix("base_model.model."), tensor) for name, tensor in load_file(path).items())
    given = {re.sub(r"(\.lora_\w+)(\.weight)?$", r"\1.default\2", name): tensor for name, tensor in saved}
    if given.keys() != there.keys() or any(given[name].shape != there[name].shape for name in there):
        return False
    with torch.no_grad():
        for name, tensor in there.items():
            tensor.copy_(given[name])
    return True
