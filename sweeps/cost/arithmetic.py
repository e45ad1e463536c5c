"""The cost of trials in steps, tokens, FLOP, hours and money. Pure functions on numbers."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeps.cluster.accelerators import PEAK_FLOP_PER_SECOND, UNKNOWN_ACCELERATOR
from sweeps.cluster.nodes import counted

if TYPE_CHECKING:
    import numpy as np

UTILISATION = 0.35
"""Share of the accelerator's peak that training reaches; assumed, not measured."""
START_UP_SECONDS = 5.0
"""Time from the placement of a trial to its first step, in a fork of a warm process; a large model takes longer."""
CHARACTERS_PER_TOKEN = 4.0
"""Used until the data have been tokenised."""
ONLINE = "answers of online training"
"""A kind of evaluation, which the trial itself waits for."""


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model from which FLOP are computed."""

    parameters: int
    layers: int
    width: int
    """Attention heads times their size."""

    def adapter_parameters(self, rank: int) -> int:
        """Most parameters of LoRA adapters of that rank: on the four projections of attention and the three of the
        feed-forward layer, which are assumed to be four times as wide."""
        return rank * self.layers * self.width * (4 * (1 + 1) + 3 * (1 + 4))


@dataclass(frozen=True)
class Lengths:
    """Token counts of one split."""

    prompts: np.ndarray
    """Shape (N,)."""
    completions: np.ndarray
    """Shape (N, K); 0 for a missing completion."""

    def first(self, completions: int) -> Lengths:
        """The lengths with at most that many completions per prompt."""
        return Lengths(self.prompts, self.completions[:, :completions])

    @property
    def tokens(self) -> int:
        """Tokens with the prompt counted for every completion, as in `train/tokens_per_second`."""
        return int(self.completions.sum() + (self.prompts * (self.completions > 0).sum(axis=1)).sum())

    @property
    def computed(self) -> int:
        """Tokens with each prompt counted once."""
        return int(self.completions.sum() + self.prompts.sum())

    @property
    def attended(self) -> int:
        """Pairs of positions in attention, before the causal mask halves them."""
        own = self.prompts[:, None] * (self.completions > 0)
        ends = own + self.completions
        return int((self.prompts**2).sum() + (ends**2 - own**2).sum())


@dataclass(frozen=True)
class Work:
    """The computation of one trial."""

    steps: int
    tokens: int
    """Tokens of training, as `train/tokens_per_second` counts them."""
    training_flop: float
    scoring_flop: float
    """FLOP of the validations during training."""

    @property
    def equivalent_tokens(self) -> float:
        """Tokens of training that would cost as much as the whole trial."""
        return self.tokens * (1 + self.scoring_flop / self.training_flop)


@dataclass(frozen=True)
class Speed:
    """The speed of trials, and its source."""

    tokens_per_second: float
    start_up_seconds: float
    source: str

    def seconds(self, work: Work) -> float:
        """Seconds of one trial, from its placement to its last step."""
        return self.start_up_seconds + work.equivalent_tokens / self.tokens_per_second


@dataclass(frozen=True)
class Forecast:
    """The expected cost of a list of trials."""

    trials: int
    steps: int
    hours: float
    """Hours of all accelerators together, or of CPU cores if there are no accelerators; with evaluation."""
    elapsed_seconds: float
    kind: str
    """GPU or CPU."""
    source: str
    price_per_gpu_hour: float | None = None
    place: str = "this machine"
    evaluation: Mapping[str, float] = field(default_factory=dict)
    """Kind of evaluation -> hours of it; no trial waits for any but ONLINE."""
    checkpoints: int = 0
    """Checkpoints that are evaluated."""

    @property
    def trial_hours(self) -> float:
        """Hours of the trials themselves, which their clocks will count."""
        return self.hours - sum(hours for kind, hours in self.evaluation.items() if kind != ONLINE)

    @property
    def evaluation_text(self) -> str:
        """Which part of the hours is evaluation, and of what kind; empty where there is none."""
        if not self.evaluation:
            return ""
        kinds = ", ".join(f"{kind} {_number(hours)}" for kind, hours in self.evaluation.items())
        whole = hours_text(sum(self.evaluation.values()), self.kind)
        return f"of it evaluation of {counted(self.checkpoints, 'checkpoint')}: {whole} ({kinds})"

    @property
    def money(self) -> float | None:
        """Cost in the currency of the price; None without a price or a GPU."""
        return None if self.price_per_gpu_hour is None or self.kind != "GPU" else self.hours * self.price_per_gpu_hour

    def __str__(self) -> str:
        said = (
            f"forecast: {self.steps:,} step{'' if self.steps == 1 else 's'}, {hours_text(self.hours, self.kind)}, "
            f"about {duration(self.elapsed_seconds)} on {self.place}"
        )
        if self.money is not None:
            said += f", {self.money:,.2f} at {self.price_per_gpu_hour:g} per GPU-hour"
        elif self.kind == "GPU":
            said += "; give --price-per-gpu-hour to see the price"
        elif self.price_per_gpu_hour is not None:
            said += "; no GPU, so no price"
        return f"{said} ({self.source})"


def forward_flop(size: ModelSize, lengths: Lengths) -> tuple[float, float]:
    """FLOP of one forward pass over a split, in the weights and in attention.

    2 N per token; 4 L d per pair of positions of a sequence, of which the causal mask leaves half.
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
) -> Work:
    """A trial's work. Training costs 6 N per token, 4 N with frozen weights (LoRA), and attention three forwards."""
    weights, attention = forward_flop(size, train)
    steps_per_epoch = math.ceil(len(train.prompts) / pairs_per_step)
    ends = {epoch * steps_per_epoch for epoch in range(1, epochs + 1)}
    validations = len(ends | set(range(validate_every_steps, epochs * steps_per_epoch + 1, validate_every_steps)))
    return Work(
        epochs * steps_per_epoch,
        epochs * train.tokens,
        epochs * ((2 if lora else 3) * weights + 3 * attention),
        validations * sum(forward_flop(size, validation)),
    )


def reference_flop(size: ModelSize, train: Lengths, validation: Lengths) -> float:
    """FLOP of one forward pass over both splits."""
    return sum(forward_flop(size, train)) + sum(forward_flop(size, validation))


def timed_speed(work: Work, per_second: float, workers: float) -> Speed:
    """The speed computed from FLOP, and from those per second that one worker has reached on a layer."""
    source = f"from FLOP, at {per_second:.2g} per second, timed here on one layer"
    return Speed(work.tokens * workers * per_second / work.training_flop, START_UP_SECONDS, source)


def modelled_speed(work: Work, types: Sequence[str], accelerators: float) -> Speed:
    """The speed computed from FLOP, the peak of the slowest of these types and the assumed share of it."""
    known = min({*types} & {*PEAK_FLOP_PER_SECOND} or {UNKNOWN_ACCELERATOR}, key=PEAK_FLOP_PER_SECOND.__getitem__)
    per_second = accelerators * UTILISATION * PEAK_FLOP_PER_SECOND[known]
    of_what = "a CPU core" if known == "CPU" else f"a {known}"
    source = f"from FLOP, at {UTILISATION:.0%} of {of_what}'s peak of {PEAK_FLOP_PER_SECOND[known]:.3g} per second"
    return Speed(work.tokens * per_second / work.training_flop, START_UP_SECONDS, source)


def measured_speed(trials: Sequence[tuple[float, float, Work]]) -> Speed:
    """The median speed of finished trials, each given as (training tokens per second, seconds in all, work).

    The time that a trial took beyond its work is its start-up.
    """
    tokens_per_second = statistics.median(one[0] for one in trials)
    beyond = [seconds - work.equivalent_tokens / own for own, seconds, work in trials]
    plural = "s" if len(trials) > 1 else ""
    return Speed(
        tokens_per_second,
        max(0.0, statistics.median(beyond)),
        f"measured: {tokens_per_second:,.0f} tokens per second in {len(trials)} finished trial{plural}",
    )


def elapsed(seconds: Sequence[float], concurrent: int) -> float:
    """Seconds that a list takes if `concurrent` trials run at the same time, each next one in the first free place."""
    places = [0.0] * max(1, concurrent)
    for one in seconds:
        places[places.index(min(places))] += one
    return max(places)


def total(forecasts: Sequence[Forecast]) -> Forecast:
    """The forecast of several stages, one after the other."""
    sources = sorted({one.source for one in forecasts if one.trials}) or [forecasts[0].source]
    kinds = dict.fromkeys(kind for one in forecasts for kind in one.evaluation)
    added = ("trials", "steps", "hours", "elapsed_seconds", "checkpoints")
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in forecasts) for name in added}
    evaluation = {kind: sum(one.evaluation.get(kind, 0.0) for one in forecasts) for kind in kinds}
    return dataclasses.replace(forecasts[0], **sums, source="; ".join(sources), evaluation=evaluation)


def compared(forecast: Forecast, hours: float) -> str:
    """The real cost beside the forecast, in a sentence."""
    ratio = f"{hours / forecast.trial_hours:.2g}" if forecast.trial_hours else ""
    beside = ", as forecast" if ratio == "1" else f", {ratio} times the forecast" if ratio else ""
    without = " without evaluation" if forecast.evaluation else ""
    return f"cost: {hours_text(hours, forecast.kind)}{without}{beside}"


def hours_text(hours: float, kind: str) -> str:
    """Hours in words, such as `1.25 GPU-hours`."""
    text = _number(hours)
    return f"{text} {kind}-hour{'' if text == '1.00' else 's'}"


def _number(hours: float) -> str:
    return f"{hours:,.{2 if hours >= 0.1 else 4}f}"


def duration(seconds: float) -> str:
    """A duration in words, such as `4 min` or `3.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
