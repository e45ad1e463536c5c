"""Reward accuracy of a checkpoint folder on the validation pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpo_train.checkpoint import read_trial
from mmpo_train.config import from_dict
from mmpo_train.logps import CompletionLogps
from mmpo_train.manifest import verify
from mmpo_train.metrics import validate
from mmpo_train.policy import load_model, load_weights
from mmpo_train.reference import read_reference
from mmpo_train.scoring import model_forward, score_pairs
from mmpo_train.tokens import read_table


class RewardAccuracy:
    """The validation pairs and a model, kept in memory from one checkpoint to the next."""

    def __init__(self, tokens_folder: str, reference_folder: str) -> None:
        self.table = read_table(Path(tokens_folder), "validation")
        self.ref_logps = read_reference(Path(reference_folder), "validation")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = None
        self.architecture = ""

    def __call__(self, checkpoint: str) -> dict[str, Any]:
        """{metrics: name -> number, correct: 0 or 1 for each pair in dataset order} of a checkpoint folder.

        The same numbers as the training loop's own validation. Raises DamagedFolder.
        """
        folder = Path(checkpoint)
        verify(folder)
        config = read_trial(folder)
        self._load(folder)
        forward = model_forward(CompletionLogps(self.model), self.device, config.precision)
        everything = np.arange(len(self.table))
        logps = score_pairs(forward, self.table, everything, config.tokens_per_pass)
        result = validate(config, logps, self.ref_logps, self.table.completion_tokens)
        return {
            "metrics": {f"validation/{name}": value for name, value in result.metrics.items()},
            "correct": result.correct,
        }

    def starting_model(self, config: dict[str, Any]) -> dict[str, float]:
        """Metrics of the model that training starts from: the reference itself, by the config's objective."""
        return validate(from_dict(config), self.ref_logps, self.ref_logps, self.table.completion_tokens).metrics

    def _load(self, folder: Path) -> None:
        """The checkpoint's model; where the architecture is the last one's, its weights are exchanged in place."""
        adapter = folder / "adapter_config.json"
        architecture = (folder / "config.json").read_text() if not adapter.is_file() else ""
        if architecture and architecture == self.architecture:
            load_weights(self.model, folder)
        else:
            self.model = load_model(folder)
        self.architecture = architecture
