"""One trial of a command's list, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmpo_train.acting_fields import training_key
from mmpo_train.config import TrialConfig

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs


@dataclass(frozen=True)
class Planned:
    """One trial of a command's list."""

    config: TrialConfig
    """Its config, fingerprints included."""
    inputs: Inputs
    """Its model and data; many trials share them."""
    label: str
    """Its name in the command's tables and figures."""
    run_name: str
    """Its name in MLflow, which cuts labels at ten characters."""

    @property
    def digest(self) -> str:
        return self.config.digest

    @property
    def completions(self) -> int:
        """The most completions that a training prompt has, with the noise candidate."""
        return self.inputs.most_completions + (self.config.noise_candidate == "added")

    @property
    def training(self) -> str:
        """Name of its training: trials that share it end with the same model."""
        return training_key(self.config, self.completions)
