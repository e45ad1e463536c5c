"""The folders that a trial reads and writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class AnyTrial(Protocol):
    """The parts of a config that a trial's folder needs, for preference training and instruction tuning."""

    @property
    def digest(self) -> str: ...

    @property
    def epochs(self) -> int: ...


@dataclass(frozen=True)
class Places:
    """Folders that a trial reads and writes."""

    model: Path
    tokens: Path
    reference: Path
    """Reference log-probabilities, which instruction tuning does not read."""
    unrelated: Path
    """Reference log-probabilities of completions of other prompts; made for objectives that need them (KTO)."""
    trials: Path

    def trial(self, trial: AnyTrial) -> Path:
        """Folder of a trial."""
        return self.trials / trial.digest
