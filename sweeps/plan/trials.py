"""One trial of a command's list, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmpo_train.config import TrialConfig

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs


@dataclass(frozen=True)
class Planned:
    """One trial of a command's list."""

    config: TrialConfig
    """With its fingerprints."""
    inputs: Inputs
    """Its model and data; many trials share them."""
    label: str
    """Its place in the list, in the command's tables and pictures."""
    run_name: str
    """As MLflow shows it, where labels are cut at ten characters."""

    @property
    def digest(self) -> str:
        return self.config.digest
