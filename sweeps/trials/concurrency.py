"""The number of trials that run at the same time, while the cluster grows and shrinks."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from sweeps.trials.board import Board

_LOOK_SECONDS = 10.0


class Queue(BasicVariantGenerator):
    """Tune's source of trials, which others may join while it runs."""

    def __init__(self, at_a_time: int, added: deque[str], job_of: Callable[[str], dict[str, Any]]) -> None:
        """`added` are digests, `job_of` gives the job of one."""
        super().__init__(max_concurrent=at_a_time)
        self.added, self.job_of = added, job_of

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles and saves it for its own way of resuming; ours is the ledger.
        return {}

    get_state = __getstate__

    def add_configurations(self, experiments: Any) -> None:
        """Called by Tune at the start, with the one experiment."""
        self.experiments = experiments
        super().add_configurations(experiments)

    def next_trial(self) -> Any:
        """The next trial; None if there is none, or no place for it."""
        while self.added:
            for experiment in self.experiments:
                experiment.spec = {**experiment.spec, "config": {"job": self.job_of(self.added.popleft())}}
            self._finished, self._trial_iter = False, None
            super().add_configurations(self.experiments)
        return super().next_trial()

    def is_finished(self) -> bool:
        """Whether no trial will come."""
        return super().is_finished() and not self.added


class Pace(tune.Callback):
    """Limits the trials of Tune to `at_a_time()`, which is called again as nodes join and leave.

    An autoscaler starts nodes for trials that have no place yet. If places become fewer no trial is stopped; the next
    one waits.
    """

    def __init__(
        self, at_a_time: Callable[[], int], board: Board, added: deque[str], job_of: Callable[[str], dict[str, Any]]
    ) -> None:
        """Trials that are `added` join the others, with the job that `job_of` gives."""
        self.at_a_time, self.board = at_a_time, board
        board.concurrent = at_a_time()
        self.trials = Queue(board.concurrent, added, job_of)
        """Tune's source of trials."""
        self.looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; ours is the ledger.
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if time.monotonic() - self.looked >= _LOOK_SECONDS:
            self.looked = time.monotonic()
            self.trials.max_concurrent = self.board.concurrent = self.at_a_time()
