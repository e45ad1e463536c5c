"""How many trials run at a time while the cluster grows and shrinks."""

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
    """Gives Tune so many trials as `at_a_time` says, and asks again as nodes come and go.

    Those that have no place yet are what an autoscaler starts nodes for. Where there are fewer places than before, no
    trial is stopped: the next one waits.
    """

    def __init__(self, at_a_time: Callable[[], int], board: Board) -> None:
        self.at_a_time, self.board = at_a_time, board
        board.concurrent = at_a_time()
        self.trials = BasicVariantGenerator(max_concurrent=board.concurrent)
        """What Tune takes its trials from."""
        self.looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; ours is the ledger.
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if time.monotonic() - self.looked >= _LOOK_SECONDS:
            self.looked = time.monotonic()
            self.trials.max_concurrent = self.board.concurrent = self.at_a_time()
