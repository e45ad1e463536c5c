"""Has the trials of a command do what persons ask of them in MLflow, while they run."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from mmpo_train.config import TrialConfig
from mmpo_train.errors import InputError
from mmpo_train.training import Trial
from mmpo_train.trial.orders import BY_PERSON, COPY, STOP, give_order
from mmpo_train.trial.places import Places
from sweeps.ledger.tags import DONE, GO, REFUSED
from sweeps.ledger.trial_log import TrialLog
from sweeps.live.orders import Order, changes_of, clone_of, parse_order

SECONDS_BETWEEN_LOOKS = 3.0


class Trials(Protocol):
    """The trials of a command, as `sweeps.trials.listener.Listener` knows them."""

    trials: dict[str, tuple[Trial, Places]]
    logs: dict[str, TrialLog]

    def under_way(self) -> set[str]:
        """Trials that have begun and whose training has not ended."""

    def state_of(self, digest: str) -> tuple[str, str]:
        """How a trial's training has ended, and why."""

    def say(self, digest: str, what: str) -> None:
        """Print a message about a trial."""

    def again(self, digest: str) -> None:
        """Have the runner train a trial, from its last state, when there is room."""

    def join(self, parent: str, clone: TrialConfig, label: str) -> None:
        """Have the runner train a clone of a trial, too."""


class Control:
    """Carries out what is asked of trials by the tag `do` of their runs, and answers by other tags.

    A thread looks for the tags of all trials at once; everything else happens in the driver's own thread.
    """

    def __init__(self, look: Callable[[], Mapping[str, str]] = dict, *, stops_only: bool = False) -> None:
        """`look` returns run -> tag, of any runs. With `stops_only` nothing else is allowed than to stop a trial."""
        self.look, self.stops_only = look, stops_only
        self.asked: Mapping[str, str] = {}
        self.answered: set[tuple[str, str]] = set()
        """Run and tag, until the tag is seen to have gone: it may be asked again."""
        self.waiting: dict[str, tuple[str, str]] = {}
        """Digest -> run and tag of what has begun and is not done yet."""
        self.copies = 0
        self.closed = threading.Event()

    @contextmanager
    def watching(self, trials: Trials) -> Iterator[None]:
        """A block in which tags are looked for."""
        thread = threading.Thread(target=self._watch, name="tags", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.closed.set()
            for digest in self.waiting:
                self._tell(trials, digest, "")

    def _watch(self) -> None:
        while not self.closed.wait(SECONDS_BETWEEN_LOOKS):
            with contextlib.suppress(InputError):  # an MLflow that does not answer is what the ledger's writer reports
                self.asked = self.look()

    def obey(self, trials: Trials) -> None:
        """Begin with what has been asked, or refuse it. Nothing is done once the runner trains no more trials."""
        asked = {} if self.closed.is_set() else self.asked
        self.answered.intersection_update(asked.items())
        if not (new := asked.items() - self.answered):
            return
        digests = {log.run_id: digest for digest, log in trials.logs.items()}
        for run_id, text in new:
            digest = digests.get(run_id)
            if digest is None or digest in self.waiting:
                continue
            try:
                self._begin(trials, digest, (run_id, text), parse_order(text))
            except InputError as why:
                said = " ".join(str(why).split())
                trials.say(digest, f"refused: {said}")
                self._answer(trials, digest, (run_id, text), REFUSED, said)

    def begun(self, trials: Trials, digest: str) -> None:
        """A trial begins, perhaps again: an order that it has obeyed, or one of an earlier command, is taken back."""
        asked = self.waiting.get(digest)
        going_on = asked is not None and parse_order(asked[1]).what == GO
        if going_on or asked is None:
            self._tell(trials, digest, "")
        if going_on:
            self._answer(trials, digest, self.waiting.pop(digest), DONE, "goes on")

    def copied(self, trials: Trials, digest: str, step: int) -> None:
        """A trial has written a state for the clone that was asked for: have the clone trained."""
        if (asked := self.waiting.pop(digest, None)) is None:
            return  # workers that were restarted have written another one
        trial, order = _preferences(trials, digest), parse_order(asked[1])
        clone, changes = clone_of(trial, order, step), changes_of(trial, order)
        self._tell(trials, digest, "")
        if clone.digest not in trials.trials:
            trials.join(digest, clone, f"from step {step}, {changes}")
        trials.say(digest, f"trial {clone.digest} starts from its state after step {step}, with {changes}")
        self._answer(trials, digest, asked, DONE, f"cloned at step {step} as trial {clone.digest}")

    def ended(self, trials: Trials, digest: str) -> None:
        """Answer what was asked of a trial whose training has ended."""
        state, reason = trials.state_of(digest)
        asked = self.waiting.pop(digest, None)
        if asked is None or state == "interrupted":  # what an interrupted trial did not come to stays asked
            return
        if reason.startswith(BY_PERSON):
            self._answer(trials, digest, asked, DONE, f"stopped{reason.removeprefix(BY_PERSON)}")
        else:
            self._answer(trials, digest, asked, REFUSED, f"its training ended first: {state} {reason}".strip())

    def _begin(self, trials: Trials, digest: str, asked: tuple[str, str], order: Order) -> None:
        if self.stops_only and order.what != STOP:
            raise InputError(f"{asked[1]!r} cannot be done in a search that proposes its trials itself: ask for stop")
        if order.what == GO:
            self._go(trials, digest, asked)
            return
        if digest not in trials.under_way():
            raise InputError(f"{asked[1]!r} comes too late, or too early: it is not training")
        trial = _preferences(trials, digest)
        stops = order.what == STOP
        what = "its stop" if stops else f"a clone with {changes_of(trial, order)}"
        self.waiting[digest] = asked
        self.copies += 1
        self._tell(trials, digest, STOP if stops else f"{COPY} {self.copies}")
        trials.say(digest, f"a person asks for {what}; it writes a state after the present step")

    def _go(self, trials: Trials, digest: str, asked: tuple[str, str]) -> None:
        if digest in trials.under_way():
            self._answer(trials, digest, asked, DONE, "goes on")
            return
        state, reason = trials.state_of(digest)
        if not reason.startswith(BY_PERSON):
            raise InputError(f"it cannot go on: it is {state}")
        self.waiting[digest] = asked
        trials.again(digest)
        trials.say(digest, "a person asks that it goes on")

    def _tell(self, trials: Trials, digest: str, order: str) -> None:
        trial, places = trials.trials[digest]
        give_order(places.trial(trial), order)

    def _answer(self, trials: Trials, digest: str, asked: tuple[str, str], tag: str, what: str) -> None:
        self.answered.add(asked)
        trials.logs[digest].answer(asked[1], {tag: f"{what}, {time.strftime('%H:%M:%S')}"})


def _preferences(trials: Trials, digest: str) -> TrialConfig:
    trial, _ = trials.trials[digest]
    assert isinstance(trial, TrialConfig), "instruction tunings have no runs that are looked at"
    return trial
