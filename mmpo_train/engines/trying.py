"""The fastest passes on this machine, found by trying when a trial starts: their size, and whether layers are
compiled."""

import hashlib
import logging
import math
import resource
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmpo_train.config import TrialConfig
from mmpo_train.data.packed import memory_left
from mmpo_train.data.tokens import TokenTable
from mmpo_train.engines.engine import Engine, first_workers
from mmpo_train.engines.passes import Passes, alone, filled, remember, remembered, take
from mmpo_train.errors import first_line
from mmpo_train.model.batches import Layout, collate
from mmpo_train.model.layouts import best_layout, is_out_of_memory
from mmpo_train.storage.mirror import kept_by_machine
from mmpo_train.storage.whole_file import read_cache, write_cache

_CPU_TOKENS = 2_048
"""On a CPU, where a whole step holds fewer tokens than are tried first."""
_FIRST_CPU_TOKENS = 512
_FIRST_TRY_TOKENS = 2_048
_MOST_MEMORY = 0.85
"""Share of the accelerator's memory that a pass may take, foreseen from smaller ones: allocators fragment."""
_WORTH_IT = 1.05
"""Speed-up in tokens per second that a pass of twice the size, or compiled layers, must reach to be kept."""
_CPU_SECONDS = 0.3
"""Processor time for which a size is tried on a CPU, at most ten passes."""
_ROOM = 4
"""Times what the first tries took that must be left for twice the size on a CPU: the optimiser's moments come later."""
_LONG_SECONDS = 600.0
"""Expected training time, at the speed found so far, above which trials that take a minute are worth their time."""


def passes_of(
    config: TrialConfig,
    engine: Engine,
    table: TokenTable,
    folder: Path,
    say: Callable[[str], None],
    origin: Path | None = None,
) -> Passes:
    """The passes that the trial, or the `origin` of a clone, began with, or smaller ones after it ran out of memory;
    otherwise new ones."""
    known = remembered(folder, config) or (remembered(origin, config) if origin is not None else None)
    if first_workers(engine, lambda: known is not None):
        assert known is not None, f"{folder} is not the same on all workers"
        take(engine, known)
        return known
    keep = (lambda passes: remember(folder, config, passes)) if engine.worker == 0 else (lambda passes: None)
    passes = find_passes(config, engine, table, keep)
    if passes.layout != config.layout:
        say(f"this model cannot be trained on {config.layout} passes: {passes}")
    return passes


def find_passes(
    config: TrialConfig, engine: Engine, table: TokenTable, keep: Callable[[Passes], None] = lambda passes: None
) -> Passes:
    """The passes to use for this trial on these workers; the same on all of them.

    If the config leaves the tokens open: on an accelerator passes grow until a larger one would not fit or is not
    faster, with activations recomputed only if the longest example would not fit otherwise; on a CPU the size is tried
    once per machine. Layers are compiled if the config says so, or if it leaves this open, the trial is long and it is
    faster. The model is not changed: passes that are tried have weight 0. `keep` receives the result, and before each
    try that may end this process the passes to use after that.
    """
    passes = _find_passes(config, engine, table, keep)
    keep(passes)
    take(engine, passes)
    return passes


def _find_passes(config: TrialConfig, engine: Engine, table: TokenTable, keep: Callable[[Passes], None]) -> Passes:
    layouts: tuple[Layout, ...] = ("shared", "packed", "padded")
    # A worker that ran out of memory may have found another layout than the others: all use the least dense.
    own = np.zeros(engine.workers)
    own[engine.worker] = layouts.index(best_layout(engine.logps, table, config.precision, config.layout))
    layout = layouts[int(engine.sum(own).max())]
    checkpointing, compiled = config.gradient_checkpointing == "always", config.compile == "true"
    passes = Passes(layout, config.tokens_per_pass or _CPU_TOKENS, checkpointing, compiled)
    take(engine, passes)
    if config.tokens_per_pass:
        return passes
    if engine.memory_share() is None:
        return replace(passes, tokens=_tokens_on_a_cpu(config, engine, table, passes))
    keep(Passes(layout, _FIRST_TRY_TOKENS, config.gradient_checkpointing != "never"))
    found = _grown(config, engine, table, passes)
    if found is None and config.gradient_checkpointing == "auto":
        passes = replace(passes, checkpointing=True)
        take(engine, passes)
        found = _grown(config, engine, table, passes)
    if found is None:
        return replace(passes, tokens=_FIRST_TRY_TOKENS)
    if config.compile == "auto" and config.zero_stage < 3 and _is_long(config, engine, table, layout, found[1]):
        keep(found[0])
        return _compiled_where_it_pays(config, engine, table, *found)
    return found[0]


def _grown(config: TrialConfig, engine: Engine, table: TokenTable, passes: Passes) -> tuple[Passes, float] | None:
    """The largest passes that pay, and their tokens a second; None where the longest example is foreseen not to fit."""
    of_each = alone(table, passes.layout)
    longest, per_step = int(of_each.max()), int(of_each.mean() * config.pairs_per_step / engine.workers)
    order, prompts_in = _in_order(table, passes.layout)
    few = prompts_in(_FIRST_TRY_TOKENS)
    # A line needs two points, and one long prompt may be all that the first tries would hold.
    first = (
        (order[: few // 2], order[:few]) if few > 1 else (np.array([of_each.argmin()]), np.array([of_each.argmax()]))
    )
    tried = [_try(engine, table, passes, prompts) for prompts in first]
    best, speed = replace(passes, tokens=max(_FIRST_TRY_TOKENS, tried[-1][0])), tried[-1][2]
    if _foreseen(tried, longest) > _MOST_MEMORY:
        return None
    while best.tokens < per_step and _foreseen(tried, 2 * best.tokens) <= _MOST_MEMORY:
        tried.append(_try(engine, table, passes, order[: prompts_in(2 * best.tokens)]))
        if tried[-1][2] < speed * _WORTH_IT:
            break
        best, speed = replace(best, tokens=2 * best.tokens), tried[-1][2]
    return replace(best, tokens=max(best.tokens, longest)), speed


def _compiled_where_it_pays(
    config: TrialConfig, engine: Engine, table: TokenTable, found: Passes, speed: float
) -> Passes:
    """`found`, or passes with compiled layers where these are faster; without a word where they cannot be compiled."""
    passes = replace(found, compiled=True)
    take(engine, passes)
    try:
        compiled = _grown(config, engine, table, passes)
    except Exception as error:  # noqa: BLE001  (compilers raise what they like; the trial can do without)
        logging.getLogger(__name__).warning("the layers are not compiled: %s", first_line(error))
        compiled = None
        if not engine.discard():
            raise
    return compiled[0] if compiled is not None and compiled[1] > speed * _WORTH_IT else found


def _tokens_on_a_cpu(config: TrialConfig, engine: Engine, table: TokenTable, passes: Passes) -> int:
    """The tokens of the smallest passes of which twice as large ones are hardly faster: they take less memory. They are
    tried once per machine and kind of trial, while others of that kind wait, and kept in the machine's cache, so that
    all trials of a sweep have the same."""
    of_each = alone(table, passes.layout)
    per_step = int(of_each.mean() * config.pairs_per_step / engine.workers)
    tokens = max(_FIRST_CPU_TOKENS, int(of_each.mean()))
    if per_step <= tokens:
        return _CPU_TOKENS
    order, prompts_in = _in_order(table, passes.layout)

    def speed_of(tokens: int) -> float:
        one = partial(_try, engine, table, passes, order[: prompts_in(tokens)], on_cpu=True)
        speed = one()[2]
        return max([speed, *(one()[2] for _ in range(min(4, int(_CPU_SECONDS * speed / tokens))))])

    def has_room() -> int:
        return memory_left() > _ROOM * engine.workers * 1024 * (_most_memory() - before)

    name = f"passes/{_kind(config, engine, passes, per_step)}.json"
    with kept_by_machine(name) if engine.worker == 0 else nullcontext(Path()) as kept:
        known = first_workers(engine, lambda: read_cache(kept).get("tokens", 0))
        if known:
            return known
        before = _most_memory()
        speed = speed_of(tokens)
        while True:
            if engine.worker == 0:  # at once: the system may kill a process that takes too much
                write_cache(kept, {"tokens": tokens})
            if tokens >= per_step or not first_workers(engine, has_room):
                return tokens
            faster = speed_of(2 * tokens)
            if faster <= speed * _WORTH_IT:
                return tokens
            tokens, speed = 2 * tokens, faster


def _most_memory() -> int:
    """The most memory that this process has had so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _kind(config: TrialConfig, engine: Engine, passes: Passes, per_step: int) -> str:
    """Names everything on which the speed of a size depends."""
    shape = {name: value for name, value in engine.module.model.config.to_dict().items() if name[0] != "_"}
    machine = socket.gethostname(), torch.__version__, torch.get_num_threads(), engine.workers
    trial = config.precision, config.zero_stage, config.lora_rank, config.lora_targets, per_step, passes
    return hashlib.sha256(repr((shape, machine, trial)).encode()).hexdigest()[:16]


def _is_long(config: TrialConfig, engine: Engine, table: TokenTable, layout: Layout, speed: float) -> bool:
    """Whether a trial is, if each worker computes `speed` tokens per second."""
    return config.epochs * float(alone(table, layout).sum()) / engine.workers >= _LONG_SECONDS * speed


def _in_order(table: TokenTable, layout: Layout) -> tuple[np.ndarray, Callable[[int], int]]:
    """The prompts in the order of passes, and a function from tokens to the number of first prompts that they hold."""
    # Padded passes are planned longest first.
    order = np.argsort(-table.longest, kind="stable") if layout == "padded" else np.arange(len(table))
    held = filled(table, layout, order)
    return order, lambda tokens: max(1, int(np.searchsorted(held, tokens, side="right")))


def _try(
    engine: Engine, table: TokenTable, passes: Passes, prompts: np.ndarray, on_cpu: bool = False
) -> tuple[int, float, float]:
    """Tokens of a pass of some prompts, the largest share of memory on any worker, and tokens per second: on a CPU of
    the processor's own time, so that other programs do not count.

    The pass is forward and backward. If memory runs out the share is infinite and the speed 0.
    """
    clock = time.process_time if on_cpu else time.perf_counter
    one = collate(table, prompts, passes.layout)
    tokens, seconds = one.input_ids.numel(), math.inf
    for _ in range(2):  # the first one warms up
        engine.memory_share()
        started = clock()
        try:
            engine.backward(0.0 * engine.logps(one).sum())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not engine.discard():
                raise
            return tokens, math.inf, 0.0
        share = engine.memory_share() or 0.0  # waits for the device
        seconds = min(seconds, clock() - started)
    of_each = np.zeros((2, engine.workers))
    of_each[:, engine.worker] = share, seconds
    shares, times = engine.sum(of_each)
    return tokens, float(shares.max()), tokens / float(times.max())


def _foreseen(tried: list[tuple[int, float, float]], tokens: int) -> float:
    """The share of memory that a pass of this number of tokens needs, by a straight line through the last two tried."""
    (fewer, less, _), (more, most, _) = tried[-2:]
    if more <= fewer or math.isinf(most):  # the table holds no more; or no more fits
        return most
    return most + max(0.0, most - less) / (more - fewer) * (tokens - more)
