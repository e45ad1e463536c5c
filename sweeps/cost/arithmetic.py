"""What trials will cost: steps, tokens, FLOP, hours and money. Pure functions on numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.cluster.accelerators import PEAK_FLOP_PER_SECOND, UNKNOWN_ACCELERATOR

UTILISATION = 0.35
"""Share of the peak that training reaches; assumed, not measured."""
START_UP_SECONDS = 30.0
"""Of a trial, from its placement to its first step."""
CHARACTERS_PER_TOKEN = 4.0
"""Where the data have not been tokenised yet."""


@dataclass(frozen=True)
class ModelSize:
    """What FLOP are counted from."""

    parameters: int
    layers: int
    width: int
    """Attention heads times their size."""

    def adapter_parameters(self, rank: int) -> int:
        """Of LoRA adapters of that rank at most: on attention's four projections, and on the feed-forward's three,
        which are taken to be four times as wide."""
        return rank * self.layers * self.width * (4 * (1 + 1) + 3 * (1 + 4))


@dataclass(frozen=True)
class Lengths:
    """Tokens of one split."""

    prompts: np.ndarray
    """Shape (N,)."""
    completions: np.ndarray
    """Shape (N, K); 0 where there is no completion."""

    def first(self, completions: int) -> Lengths:
        """With at most so many completions of each prompt."""
        return Lengths(self.prompts, self.completions[:, :completions])

    @property
    def tokens(self) -> int:
        """Every completion behind its own prompt, as `train/tokens_per_second` counts them."""
        return int(self.completions.sum() + (self.prompts * (self.completions > 0).sum(axis=1)).sum())

    @property
    def computed(self) -> int:
        """Each prompt once, with all its completions behind it."""
        return int(self.completions.sum() + self.prompts.sum())

    @property
    def attended(self) -> int:
        """Pairs of positions, before the causal mask halves them."""
        ends = np.where(self.completions > 0, self.prompts[:, None] + self.completions, 0)
        own = np.where(self.completions > 0, self.prompts[:, None], 0)
        return int((self.prompts**2).sum() + (ends**2 - own**2).sum())


@dataclass(frozen=True)
class Work:
    """What one trial has to compute."""

    steps: int
    tokens: int
    """Of training, as `train/tokens_per_second` counts them."""
    training_flop: float
    scoring_flop: float
    """Validation while it trains, and the evaluator's of each epoch's checkpoint."""

    @property
    def equivalent_tokens(self) -> float:
        """Tokens of training that would cost as much as all of it."""
        return self.tokens * (1 + self.scoring_flop / self.training_flop)


@dataclass(frozen=True)
class Speed:
    """How fast trials go, and how we know."""

    tokens_per_second: float
    start_up_seconds: float
    source: str

    def seconds(self, work: Work) -> float:
        """Of one trial, from its placement to its last evaluation."""
        return self.start_up_seconds + work.equivalent_tokens / self.tokens_per_second


@dataclass(frozen=True)
class Forecast:
    """What a list of trials will cost."""

    trials: int
    steps: int
    hours: float
    """Of all accelerators together, or of CPU cores where there are none."""
    elapsed_seconds: float
    kind: str
    """GPU or CPU."""
    source: str
    price_per_gpu_hour: float | None = None

    @property
    def money(self) -> float | None:
        """In the currency of the price; None where there is no price or no GPU."""
        return None if self.price_per_gpu_hour is None or self.kind != "GPU" else self.hours * self.price_per_gpu_hour

    def __str__(self) -> str:
        said = (
            f"forecast: {self.steps:,} steps, {hours_text(self.hours, self.kind)}, "
            f"about {duration(self.elapsed_seconds)} on this cluster"
        )
        if self.money is not None:
            said += f", {self.money:,.2f} at {self.price_per_gpu_hour:g} a GPU-hour"
        elif self.kind == "GPU":
            said += "; give --price-per-gpu-hour for its price"
        elif self.price_per_gpu_hour is not None:
            said += "; no GPU, so no price"
        return f"{said} ({self.source})"


def forward_flop(size: ModelSize, lengths: Lengths) -> tuple[float, float]:
    """FLOP of one forward pass over a split, by weights and by attention.

    2 N for each token; 4 L d for each pair of positions of a sequence, of which the causal mask leaves half.
    """
    return 2.0 * size.parameters * lengths.computed, 2.0 * size.layers * size.width * lengths.attended


def work_of(
    size: ModelSize,
    train: Lengths,
    validation: Lengths,
    *,
    epochs: int,
    pairs_per_step: int,
    validate_every_steps: int,
    lora: bool,
    judged: bool = True,
) -> Work:
    """A trial's work. Training costs 6 N a token, 4 N where the weights are frozen (LoRA); attention three forwards.

    `judged`: whether an evaluator looks at each epoch's checkpoint, besides the loop's own validation.
    """
    weights, attention = forward_flop(size, train)
    steps_per_epoch = math.ceil(len(train.prompts) / pairs_per_step)
    ends = {epoch * steps_per_epoch for epoch in range(1, epochs + 1)}
    validations = len(ends | set(range(validate_every_steps, epochs * steps_per_epoch + 1, validate_every_steps)))
    return Work(
        epochs * steps_per_epoch,
        epochs * train.tokens,
        epochs * ((2 if lora else 3) * weights + 3 * attention),
        (validations + epochs * judged) * sum(forward_flop(size, validation)),
    )


def reference_flop(size: ModelSize, train: Lengths, validation: Lengths) -> float:
    """One forward pass over both splits."""
    return sum(forward_flop(size, train)) + sum(forward_flop(size, validation))


def modelled_speed(work: Work, accelerator: str, workers: int) -> Speed:
    """From FLOP, the accelerator's peak and the share of it that is assumed."""
    known = accelerator if accelerator in PEAK_FLOP_PER_SECOND else UNKNOWN_ACCELERATOR
    per_second = workers * UTILISATION * PEAK_FLOP_PER_SECOND[known]
    of_what = "a CPU core" if known == "CPU" else f"a {known}"
    source = f"from FLOP, at {UTILISATION:.0%} of the {PEAK_FLOP_PER_SECOND[known]:.3g} a second of {of_what}"
    return Speed(work.tokens * per_second / work.training_flop, START_UP_SECONDS, source)


def measured_speed(trials: Sequence[tuple[float, float, Work]]) -> Speed:
    """From finished trials: (tokens a second of training, seconds in all, work) of each, medians of them.

    What a trial took beyond its work is its start-up.
    """
    tokens_per_second = statistics.median(one[0] for one in trials)
    beyond = [seconds - work.equivalent_tokens / own for own, seconds, work in trials]
    plural = "s" if len(trials) > 1 else ""
    return Speed(
        tokens_per_second,
        max(0.0, statistics.median(beyond)),
        f"measured: {tokens_per_second:,.0f} tokens a second in {len(trials)} finished trial{plural} here",
    )


def elapsed(seconds: Sequence[float], concurrent: int) -> float:
    """How long a list takes where so many run at a time, each next one in the first free place."""
    places = [0.0] * max(1, concurrent)
    for one in seconds:
        places[places.index(min(places))] += one
    return max(places)


def total(forecasts: Sequence[Forecast]) -> Forecast:
    """Of several stages, one after the other."""
    sources = sorted({one.source for one in forecasts if one.trials}) or [forecasts[0].source]
    return Forecast(
        sum(one.trials for one in forecasts),
        sum(one.steps for one in forecasts),
        sum(one.hours for one in forecasts),
        sum(one.elapsed_seconds for one in forecasts),
        forecasts[0].kind,
        "; ".join(sources),
        forecasts[0].price_per_gpu_hour,
    )


def compared(forecast: Forecast, hours: float) -> str:
    """What it cost beside what was foreseen."""
    ratio = f", {hours / forecast.hours:.2f} of it" if forecast.hours else ""
    return f"cost: {hours_text(hours, forecast.kind)}; foreseen {hours_text(forecast.hours, forecast.kind)}{ratio}"


def hours_text(hours: float, kind: str) -> str:
    """`1.25 GPU-hours`."""
    return f"{hours:,.{2 if hours >= 0.1 else 4}f} {kind}-hours"


def duration(seconds: float) -> str:
    """`4 min`, `3.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
