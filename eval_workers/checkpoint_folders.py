"""Facts about a checkpoint that evaluators need before they load it: one of ours, a Hugging Face folder, or a hub
id."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from mmpo_train.config import TRIAL
from mmpo_train.model.folders import base_of, local_folder
from mmpo_train.storage.manifest import MANIFEST, verify
from mmpo_train.storage.whole_file import sha256_of
from mmpo_train.trial.checkpoint import read_trial

_TOKENIZER_FILES = ("*token*.json", "*.jinja", "vocab.json", "merges.txt", "*.model")


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint whose files are as they were written."""

    folder: Path
    tokenizer_folder: Path
    precision: str
    """Precision of its trial; for other models "bf16" on a GPU and "fp32" without."""

    def tokenizer_digest(self) -> str:
        """A digest that is equal for checkpoints with the same tokenizer."""
        whole = hashlib.sha256()
        paths = {path for pattern in _TOKENIZER_FILES for path in self.tokenizer_folder.glob(pattern)}
        for path in sorted(paths):
            whole.update(f"{path.name} {sha256_of(path)}\n".encode())
        return whole.hexdigest()


def open_checkpoint(checkpoint: str) -> CheckpointFolder:
    """The checkpoint, checked. Raises DamagedFolder if files have changed, InputError as `local_folder` does."""
    folder = local_folder(checkpoint)
    if (folder / MANIFEST).is_file():
        verify(folder)
    tokenizer_folder = tokenizer_folder_of(folder)
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    if (folder / TRIAL).is_file():
        precision = read_trial(folder).precision
    return CheckpointFolder(folder, tokenizer_folder, precision)


def tokenizer_folder_of(folder: Path) -> Path:
    """The folder to load a model's tokenizer from: the base model's for LoRA adapters without a config.json."""
    base = "" if (folder / "config.json").is_file() else base_of(folder)
    return local_folder(base) if base else folder
