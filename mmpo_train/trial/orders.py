"""What a person asks of a running trial, as a small file in its folder at which worker 0 looks between two steps.

trials/<digest>/order        STOP, or COPY and a number
"""

import time
from pathlib import Path

from mmpo_train.storage.mirror import address_of, publish_file, read_file
from mmpo_train.storage.whole_file import write_whole

STOP, COPY = "stop", "copy"
BY_PERSON = "stopped by a person"
"""How the reason of a trial begins that a person has stopped."""
_FILE = "order"
_SECONDS_BETWEEN_LOOKS, _IN_A_BUCKET = 1.0, 5.0


def give_order(trial_folder: Path, order: str) -> None:
    """Give the trial's workers an order, in the place of an earlier one; an empty one takes it back."""
    path = trial_folder / _FILE
    if order or path.exists() or address_of(path):
        write_whole(path, order)
        publish_file(path)


class Orders:
    """The orders of a trial, for one of its workers. Only worker 0 looks; the others learn from it what is done."""

    def __init__(self, trial_folder: Path, worker: int) -> None:
        self.path = trial_folder / _FILE
        self.between = _IN_A_BUCKET if address_of(self.path) else _SECONDS_BETWEEN_LOOKS
        self.next_look = 0.0 if worker == 0 else float("inf")
        self.order = self.obeyed = ""

    def stops(self) -> bool:
        """Whether the trial is to write a state and end."""
        return self._look() == STOP

    def copies(self) -> bool:
        """Whether the trial is to write a state for another one, and go on."""
        return self._look().startswith(COPY)

    def obey(self) -> None:
        """The order has been carried out."""
        self.obeyed = self.order

    def _look(self) -> str:
        if time.monotonic() >= self.next_look:
            self.order = read_file(self.path).decode(errors="replace")
            self.next_look = time.monotonic() + self.between
        return "" if self.order == self.obeyed else self.order
