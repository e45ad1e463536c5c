"""The folders that a trial reads and writes."""

from dataclasses import dataclass
from pathlib import Path

from mmpo_train.config import TrialConfig


@dataclass(frozen=True)
class Places:
    """Folders that a trial reads and writes."""

    model: Path
    tokens: Path
    reference: Path
    unrelated: Path
    """Reference log-probabilities of completions of other prompts; made for objectives that need them (KTO)."""
    trials: Path

    def trial(self, config: TrialConfig) -> Path:
        """Folder of a trial."""
        return self.trials / config.digest
