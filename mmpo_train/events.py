"""Messages of a running trial. Standard library only, so that drivers read them without torch."""

from collections.abc import Callable
from typing import NamedTuple

Say = Callable[[str, float], None]
"""Receives the current activity and the share of it that is done, from 0 to 1."""


class Point(NamedTuple):
    """Metrics of one optimiser step, with the time at which they were measured."""

    step: int
    timestamp_ms: int
    metrics: dict[str, float]


class Finished(NamedTuple):
    """A finished epoch, whose checkpoint is on disk."""

    epoch: int
    checkpoint: str


Send = Callable[[list[Point], Finished | None], None]
"""Receives new points and, at the end of an epoch, its checkpoint. Every worker calls it equally often."""
