"""Facts about a checkpoint that evaluators need before they load it: one of ours, a Hugging Face folder, or a hub
id."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from mmpo_train.config import TRIAL
from mmpo_train.model.folders import local_folder
from mmpo_train.storage.manifest import MANIFEST, verify
from mmpo_train.trial.checkpoint import read_trial

_TOKENIZER_FILES = ("*token*.json", "*.jinja", "vocab.json", "merges.txt", "*.model")


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint whose files are as they were written."""

    folder: Path
    tokenizer_folder: Path
    """Folder to load the tokenizer from: the base model's if a folder of LoRA adapters has no config.json."""
    precision: str
    """Precision of its trial; for other models "bf16" on a GPU and "fp32" without."""

    def tokenizer_digest(self) -> str:
        """A digest that is equal for checkpoints with the same tokenizer."""
        whole = hashlib.sha256()
        paths = {path for pattern in _TOKENIZER_FILES for path in self.tokenizer_folder.glob(pattern)}
        for path in sorted(paths):
            whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return whole.hexdigest()


def open_checkpoint(checkpoint: str) -> CheckpointFolder:
    """The checkpoint, checked. Raises DamagedFolder if files have changed, InputError as `local_folder` does."""
    folder = local_folder(checkpoint)
    if (folder / MANIFEST).is_file():
        verify(folder)
    adapter = folder / "adapter_config.json"
    alone = (folder / "config.json").is_file() or not adapter.is_file()
    tokenizer_folder = folder if alone else local_folder(json.loads(adapter.read_text())["base_model_name_or_path"])
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    if (folder / TRIAL).is_file():
        precision = read_trial(folder).precision
    return CheckpointFolder(folder, tokenizer_folder, precision)
