"""The number of trials that run at the same time, while the cluster grows and shrinks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

if TYPE_CHECKING:
    from sweeps.trials.board import Board

_LOOK_SECONDS = 10.0


class Pace(tune.Callback):
    """Limits the trials of Tune to `at_a_time()`, which is called again as nodes join and leave.

    An autoscaler starts nodes for trials that have no place yet. If places become fewer no trial is stopped; the next
    one waits.
    """

    def __init__(self, at_a_time: Callable[[], int], board: Board) -> None:
        self.at_a_time, self.board = at_a_time, board
        board.concurrent = at_a_time()
        self.trials = BasicVariantGenerator(max_concurrent=board.concurrent)
        """Tune's source of trials."""
        self.looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; ours is the ledger.
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if time.monotonic() - self.looked >= _LOOK_SECONDS:
            self.looked = time.monotonic()
            self.trials.max_concurrent = self.board.concurrent = self.at_a_time()
