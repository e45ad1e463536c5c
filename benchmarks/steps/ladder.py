"""The ladder: what each of our own measures gives, one on top of the other."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmpo_train.engines.passes import Passes
from mmpo_train.model.batches import Layout
from mmpo_train.model.logps import CompletionLogps
from steps.machine import now
from steps.race import TOLERANCE, refuse_different
from steps.work import OurStep, our_module


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One of our own ways, with all measures so far."""

    name: str
    layout: Layout
    tokens: int
    """Budget of a pass."""
    stored_reference: bool = True
    one_projection: bool = False
    compiled: bool = False


def ladder(small: int, large: int, on_gpu: bool) -> list[Rung]:
    """Each measure on top of those before it."""
    rungs = [
        Rung(name="padded rows", layout="padded", tokens=small, one_projection=True, stored_reference=False),
        Rung(name="+ stored reference", layout="padded", tokens=small, one_projection=True),
        Rung(name="+ packed", layout="packed", tokens=small, one_projection=True),
        Rung(name="+ shared prompts", layout="shared", tokens=small, one_projection=True),
        Rung(name="+ projection in chunks", layout="shared", tokens=small),
        Rung(name=f"+ {large} tokens a pass", layout="shared", tokens=large),
    ]
    return [*rungs, Rung(name="+ compiled", layout="shared", tokens=large, compiled=True)] if on_gpu else rungs


def climb(ours: OurStep, rungs: Sequence[Rung], rounds: int) -> dict[str, list[float]]:
    """Seconds of each rung's steps, on one model that stays as it is: the rate is 0. Exits where losses part."""
    engine, module, job = ours.engine, ours.engine.module, ours.job
    whole = CompletionLogps(module.model, one_projection=True)
    frozen = our_module(job, ours.device, trained=False)

    def reference(one: Any) -> torch.Tensor:
        return frozen(one.to(ours.device))

    seconds: dict[str, list[float]] = {rung.name: [] for rung in rungs}
    # At the start policy and reference are the same, and every loss is log 2.
    for _ in range(2):
        ours.step()
    # The first round warms up and is not counted.
    for number in range(rounds + 1):
        losses = {}
        for rung in rungs:
            engine.module = whole if rung.one_projection else module
            module.compile_layers(rung.compiled)
            passes = Passes(rung.layout, rung.tokens)
            started = now(ours.device)
            losses[rung.name] = ours.accumulate(
                number % job.steps, passes, None if rung.stored_reference else reference
            )
            engine.step(0.0)
            seconds[rung.name].append(now(ours.device) - started)
        refuse_different(losses, TOLERANCE[job.precision], f"step {number + 1} of the ladder")
    engine.module = module
    module.compile_layers(False)
    return {name: values[1:] for name, values in seconds.items()}


def print_ladder(ladder_seconds: dict[str, list[float]]) -> None:
    """The ladder as a table."""
    print(f"\n{'our step, measure by measure':32}{'s/step':>9}{'factor':>9}{'so far':>9}")
    medians = {name: statistics.median(values) for name, values in ladder_seconds.items()}
    start = before = math.nan
    for name, median in medians.items():
        start = median if math.isnan(start) else start
        factor = f"{before / median:8.2f}x" if not math.isnan(before) else f"{'':9}"
        print(f"{name:32}{median:9.3f}{factor}{start / median:8.2f}x")
        before = median
