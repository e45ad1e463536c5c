"""The size of passes on this machine. `trying.py` finds it when a trial starts; it is reduced if memory runs out.

Nothing here changes what a trial learns: a step is the same sum however it is divided.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mmpo_train.config import TrialConfig
from mmpo_train.data.tokens import TokenTable
from mmpo_train.engines.engine import Engine
from mmpo_train.model.batches import Layout, plan_passes, tokens_in
from mmpo_train.storage.mirror import fetch_file, publish_file
from mmpo_train.storage.whole_file import read_cache, write_cache


@dataclass(frozen=True)
class Passes:
    """Layout and size of the passes."""

    layout: Layout
    tokens: int
    """Most tokens of a pass; a single prompt with its completions may have more."""
    checkpointing: bool = False
    """Whether activations are recomputed in the backward pass."""
    compiled: bool = False
    """Whether the model's layers are compiled."""

    def smaller(self, table: TokenTable, may_recompute: bool, workers: int = 1) -> Passes | None:
        """Smaller passes after a step ran out of memory; None if its passes had single prompts already.

        They have half the tokens of the step's largest pass (half of the limit might give the same passes again); with
        several workers, which must be restarted, a quarter.
        """
        planned = plan_passes(table, np.arange(len(table)), self.tokens, workers, self.layout)
        largest = max(int(filled(table, self.layout, some)[-1]) for some in planned if len(some))
        largest_alone = int(alone(table, self.layout).max())
        if largest > largest_alone:
            return replace(self, tokens=max(largest // (2 if workers == 1 else 4), largest_alone))
        if may_recompute and not self.checkpointing:
            return replace(self, checkpointing=True)
        if self.tokens > 1:
            return replace(self, tokens=1)
        return None

    def __str__(self) -> str:
        how = (", activations recomputed" if self.checkpointing else "") + (", compiled" if self.compiled else "")
        return f"{self.layout}, at most {self.tokens:,} tokens{how}"


def take(engine: Engine, passes: Passes) -> None:
    """Set the engine to these passes."""
    engine.recompute_activations(passes.checkpointing)
    engine.compile_layers(passes.compiled)


def filled(table: TokenTable, layout: Layout, prompts: np.ndarray) -> np.ndarray:
    """Tokens of a pass with the first of some prompts, with the first two, …, with all of them."""
    if layout != "padded":
        return np.cumsum(tokens_in(table, layout)[prompts])
    rows = np.cumsum([len(table.completions[prompt]) for prompt in prompts])
    return rows * np.maximum.accumulate(table.longest[prompts])


def alone(table: TokenTable, layout: Layout) -> np.ndarray:
    """Tokens of each prompt's pass if it has no other prompt, shape (N,)."""
    if layout != "padded":
        return tokens_in(table, layout)
    return np.array([len(row) for row in table.completions]) * table.longest


def remember(folder: Path, config: TrialConfig, passes: Passes) -> None:
    """Save a trial's passes beside its checkpoints, so that it continues with the same or smaller ones."""
    write_cache(folder / "passes.json", {"asked": _asked(config), "passes": asdict(passes)})
    publish_file(folder / "passes.json")


def remembered(folder: Path, config: TrialConfig) -> Passes | None:
    """The passes that `remember` saved, if any, and if the config asked for the same then."""
    path = folder / "passes.json"
    fetch_file(path)
    kept = read_cache(path)
    return Passes(**kept["passes"]) if kept.get("asked") == _asked(config) else None


def _asked(config: TrialConfig) -> list[str | int]:
    return [config.layout, config.tokens_per_pass, config.gradient_checkpointing, config.compile]
