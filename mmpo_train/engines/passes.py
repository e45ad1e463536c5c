"""The size of passes on this machine, found by trying when a trial starts, and reduced if memory runs out.

Nothing here changes what a trial learns: a step is the same sum however it is divided.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.batches import Layout, collate, plan_passes, tokens_in
from mmpo_train.model.layouts import best_layout, is_out_of_memory
from mmpo_train.storage.mirror import fetch_file, publish_file
from mmpo_train.storage.whole_file import write_whole

if TYPE_CHECKING:
    from mmpo_train.config import TrialConfig
    from mmpo_train.engines.engine import Engine

_CPU_TOKENS = 2_048  # above it a CPU gains nothing and its caches lose
_FIRST_TRY_TOKENS = 2_048
_MOST_MEMORY = 0.85
"""Share of the accelerator's memory that a pass may take, estimated from smaller ones; allocators fragment."""
_WORTH_IT = 1.05
"""A pass twice as large is kept if its tokens per second grow at least by this factor."""


@dataclass(frozen=True)
class Passes:
    """Layout and size of the passes."""

    layout: Layout
    tokens: int
    """Most tokens of a pass; a single prompt with its completions may have more."""
    checkpointing: bool = False
    """Whether activations are recomputed in the backward pass."""

    def smaller(self, table: TokenTable, may_recompute: bool, workers: int = 1) -> Passes | None:
        """Smaller passes after a step ran out of memory; None if its passes had single prompts already.

        They have half the tokens of the step's largest pass (half of the limit might give the same passes again); with
        several workers, which must be restarted, a quarter.
        """
        planned = plan_passes(table, np.arange(len(table)), self.tokens, workers, self.layout)
        largest = max(int(_filled(table, self.layout, some)[-1]) for some in planned if len(some))
        largest_alone = int(_alone(table, self.layout).max())
        if largest > largest_alone:
            return replace(self, tokens=max(largest // (2 if workers == 1 else 4), largest_alone))
        if may_recompute and not self.checkpointing:
            return replace(self, checkpointing=True)
        if self.tokens > 1:
            return replace(self, tokens=1)
        return None

    def __str__(self) -> str:
        recomputed = ", activations recomputed" if self.checkpointing else ""
        return f"{self.layout}, at most {self.tokens:,} tokens{recomputed}"


def find_passes(
    config: TrialConfig, engine: Engine, table: TokenTable, keep: Callable[[Passes], None] = lambda passes: None
) -> Passes:
    """The passes of this trial on these workers; the same answer on all of them.

    If the config leaves the tokens open, passes grow on an accelerator until a larger one is not expected to fit or is
    not faster; activations are recomputed only if the longest example would not fit otherwise. On a CPU the size is a
    constant. The model is not changed: tried passes have weight 0. `keep` receives the answer and, before any try that
    might end this process for lack of memory, the passes to use after that.
    """
    passes = _find_passes(config, engine, table, keep)
    keep(passes)
    return passes


def _find_passes(config: TrialConfig, engine: Engine, table: TokenTable, keep: Callable[[Passes], None]) -> Passes:
    layouts: tuple[Layout, ...] = ("shared", "packed", "padded")
    # A worker that ran out of memory may have found another layout than the others: all take the least dense.
    own = np.zeros(engine.workers)
    own[engine.worker] = layouts.index(best_layout(engine.logps, table, config.precision, config.layout))
    layout = layouts[int(engine.sum(own).max())]
    passes = Passes(layout, config.tokens_per_pass or _CPU_TOKENS, config.gradient_checkpointing == "always")
    engine.recompute_activations(passes.checkpointing)
    if config.tokens_per_pass or engine.memory_share() is None:
        return passes
    keep(Passes(layout, _FIRST_TRY_TOKENS, config.gradient_checkpointing != "never"))
    found = _grown(config, engine, table, passes)
    if found is None and config.gradient_checkpointing == "auto":
        passes = replace(passes, checkpointing=True)
        engine.recompute_activations(True)
        found = _grown(config, engine, table, passes)
    return found or replace(passes, tokens=_FIRST_TRY_TOKENS)


def _grown(config: TrialConfig, engine: Engine, table: TokenTable, passes: Passes) -> Passes | None:
    """The largest passes that are faster; None if the longest example is not expected to fit."""
    alone = _alone(table, passes.layout)
    longest, per_step = int(alone.max()), int(alone.mean() * config.pairs_per_step / engine.workers)
    # Padded passes are planned longest first.
    order = np.argsort(-table.longest, kind="stable") if passes.layout == "padded" else np.arange(len(table))
    filled = _filled(table, passes.layout, order)

    def prompts_in(tokens: int) -> int:
        return max(1, int(np.searchsorted(filled, tokens, side="right")))

    few = prompts_in(_FIRST_TRY_TOKENS)
    # A line needs two points, and one long prompt may be all that the first tries would hold.
    first = (order[: few // 2], order[:few]) if few > 1 else (np.array([alone.argmin()]), np.array([alone.argmax()]))
    tried = [_try(engine, table, passes, prompts) for prompts in first]
    best, speed = replace(passes, tokens=max(_FIRST_TRY_TOKENS, tried[-1][0])), tried[-1][2]
    if _foreseen(tried, longest) > _MOST_MEMORY:
        return None
    while best.tokens < per_step and _foreseen(tried, 2 * best.tokens) <= _MOST_MEMORY:
        tried.append(_try(engine, table, passes, order[: prompts_in(2 * best.tokens)]))
        if tried[-1][2] < speed * _WORTH_IT:
            break
        best, speed = replace(best, tokens=2 * best.tokens), tried[-1][2]
    return replace(best, tokens=max(best.tokens, longest))


def _filled(table: TokenTable, layout: Layout, prompts: np.ndarray) -> np.ndarray:
    """Tokens of a pass with the first of some prompts, with the first two, …, with all of them."""
    if layout != "padded":
        return np.cumsum(tokens_in(table, layout)[prompts])
    rows = np.cumsum([len(table.completions[prompt]) for prompt in prompts])
    return rows * np.maximum.accumulate(table.longest[prompts])


def _alone(table: TokenTable, layout: Layout) -> np.ndarray:
    """Tokens of each prompt's pass if it has no other prompt, shape (N,)."""
    if layout != "padded":
        return tokens_in(table, layout)
    return np.array([len(row) for row in table.completions]) * table.longest


def _try(engine: Engine, table: TokenTable, passes: Passes, prompts: np.ndarray) -> tuple[int, float, float]:
    """Tokens of a pass of some prompts, the largest share of memory on any worker, and tokens per second.

    The pass runs forward and backward. If memory ran out the share is infinite and the speed 0.
    """
    one = collate(table, prompts, passes.layout)
    tokens = one.input_ids.numel()
    for _ in range(2):  # the first one warms up
        engine.memory_share()
        started = time.perf_counter()
        try:
            engine.backward(0.0 * engine.logps(one).sum())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not engine.discard():
                raise
            return tokens, math.inf, 0.0
        share = engine.memory_share() or 0.0  # waits for the device
        seconds = time.perf_counter() - started
    of_each = np.zeros((2, engine.workers))
    of_each[:, engine.worker] = share, seconds
    shares, times = engine.sum(of_each)
    return tokens, float(shares.max()), tokens / float(times.max())


def _foreseen(tried: list[tuple[int, float, float]], tokens: int) -> float:
    """Expected share of memory of a pass of `tokens` tokens, on a straight line through the last two tries."""
    (fewer, less, _), (more, most, _) = tried[-2:]
    if more <= fewer or math.isinf(most):  # the table holds no more; or no more fits
        return most
    return most + max(0.0, most - less) / (more - fewer) * (tokens - more)


def remember(folder: Path, config: TrialConfig, passes: Passes) -> None:
    """Save a trial's passes beside its checkpoints, so that it continues with the same or smaller ones."""
    write_whole(folder / "passes.json", json.dumps({"asked": _asked(config), "passes": asdict(passes)}))
    publish_file(folder / "passes.json")


def remembered(folder: Path, config: TrialConfig) -> Passes | None:
    """The passes that `remember` saved, if any, and if the config asked for the same then."""
    path = folder / "passes.json"
    fetch_file(path)
    kept = json.loads(path.read_text()) if path.is_file() else {}
    return Passes(**kept["passes"]) if kept.get("asked") == _asked(config) else None


def _asked(config: TrialConfig) -> list[str | int]:
    return [config.layout, config.tokens_per_pass, config.gradient_checkpointing]
