"""The work of a runner."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmpo_train.training import Trial
from mmpo_train.trial.places import Places
from sweeps.cluster.placement import TrialResources
from sweeps.plan.options import SweepOptions


@dataclass(frozen=True, kw_only=True)
class Work:
    """Preference trials, or instruction tunings, to train and evaluate."""

    trials: Mapping[str, tuple[Trial, Places]]
    """By digest."""
    options: SweepOptions
    resources: TrialResources
    """The resources of each trial."""
    judge: str = ""
    """The judge that compares answers with the starting model's; empty for none."""
