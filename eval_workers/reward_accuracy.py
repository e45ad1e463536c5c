"""Reward accuracy of a checkpoint folder on the validation pairs."""

from pathlib import Path
from typing import Any

import numpy as np

from eval_workers.warm_model import WarmModel
from mmpo_train.config import from_dict
from mmpo_train.data.tokens import read_table
from mmpo_train.metric_names import VALIDATION
from mmpo_train.model.layouts import FORWARD_TOKENS, best_layout
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.reference import read_reference, write_logps
from mmpo_train.model.scoring import ScoredTable, model_forward, score_pairs
from mmpo_train.storage.manifest import verify
from mmpo_train.trial.checkpoint import read_reference_point, read_trial
from mmpo_train.trial.metrics import validate


class RewardAccuracy:
    """Scores checkpoints on validation pairs; pairs and model stay in memory from one checkpoint to the next."""

    def __init__(self) -> None:
        self.warm = WarmModel()
        self.pairs: dict[tuple[str, str], ScoredTable] = {}

    def __call__(self, checkpoint: str, tokens_folder: str, reference_folder: str, kept: str = "") -> dict[str, Any]:
        """{metrics: name -> number, correct: 0 or 1 for each pair in dataset order} of a checkpoint folder. The same
        numbers as the training loop's own validation. If `kept` is given, the log-probabilities are written to this
        folder, so that trials that share the training are scored from them. Raises DamagedFolder."""
        folder, pairs = Path(checkpoint), self._pairs(tokens_folder, reference_folder)
        verify(folder)
        config = read_trial(folder)
        model = self.warm.load(folder, config.precision)
        forward = model_forward(CompletionLogps(model), self.warm.device, config.precision)
        layout = best_layout(forward, pairs.table, config.precision, config.layout)
        tokens = config.tokens_per_pass or FORWARD_TOKENS[self.warm.device.type]
        logps = score_pairs(forward, pairs.table, np.arange(len(pairs.table)), tokens, layout=layout)
        if kept:
            write_logps(Path(kept), {"validation": logps.tolist()})
        point = read_reference_point(folder).mean
        result = validate(config, logps, pairs.ref_logps, pairs.table.completion_tokens, point)
        return {
            "metrics": {f"{VALIDATION}{name}": value for name, value in result.metrics.items()},
            "correct": result.correct,
        }

    def starting_model(self, config: dict[str, Any], tokens_folder: str, reference_folder: str) -> dict[str, float]:
        """Metrics of the starting model, which is the reference itself, by the config's objective."""
        pairs = self._pairs(tokens_folder, reference_folder)
        return validate(from_dict(config), pairs.ref_logps, pairs.ref_logps, pairs.table.completion_tokens).metrics

    def _pairs(self, tokens_folder: str, reference_folder: str) -> ScoredTable:
        folders = tokens_folder, reference_folder
        if folders not in self.pairs:
            logps = read_reference(Path(reference_folder), "validation")
            self.pairs[folders] = ScoredTable(read_table(Path(tokens_folder), "validation"), logps)
        return self.pairs[folders]
