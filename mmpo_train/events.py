"""What a running trial says of itself. Standard library only: drivers read it without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Say = Callable[[str, float], None]
"""Takes what is being done and the share of it that is done."""


class Point(NamedTuple):
    """Metrics of one optimiser step, with the time at which they were measured."""

    step: int
    timestamp_ms: int
    metrics: dict[str, float]


class Finished(NamedTuple):
    """An epoch whose checkpoint is on disk."""

    epoch: int
    checkpoint: str


Send = Callable[[list[Point], Finished | None], None]
"""Takes new points and, at an epoch's end, its checkpoint. Every worker calls it, the same number of times."""
