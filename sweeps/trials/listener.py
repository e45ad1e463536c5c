"""Passes the reports of trials to the ledger, the screen and the evaluators."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmpo_train.config import TrialConfig
from mmpo_train.data.rendering import facts
from mmpo_train.events import Finished, Point
from mmpo_train.metric_names import ACCURACY_CURVE, EPOCH, LOSS_CURVE, REWARD_ACCURACY, VALIDATION_LOSS
from mmpo_train.storage.mirror import fetch_files
from mmpo_train.trial.early_stop import GO_ON, STOP, write_answer
from sweeps.cluster.head import with_last_words
from sweeps.cluster.leaving import INTERRUPTED
from sweeps.ledger.trial_log import SECONDS_TO_DELIVER, TrialLog
from sweeps.live.control import Control
from sweeps.trials.board import Board, Row
from sweeps.trials.evaluators import REWARD, Evaluators, Judgement, artifacts_folder
from sweeps.trials.work import Work
from sweeps.trials.work_clock import WorkClock

GoesOn = Callable[[str, int, float], bool]
"""Takes a trial's digest, an epoch that it has finished and its reward accuracy: whether it may go on."""


class Listener:
    """Passes trials' reports to the ledger and the screen, and their checkpoints to the evaluators.

    A runner calls `begun`, `heard` and `trained` for each trial, and `judged` from time to time.
    """

    def __init__(
        self,
        work: Work,
        open_log: Callable[[str], TrialLog],
        board: Board,
        goes_on: GoesOn | None = None,
        control: Control | None = None,
    ) -> None:
        """With `goes_on`, trials wait for its answer at the end of each epoch but the last. `control` says what persons
        ask of trials; without it nobody can."""
        self.trials, self.workers = dict(work.trials), work.resources.workers
        self.open_log, self.board, self.goes_on = open_log, board, goes_on
        self.control = control or Control()
        self.evaluators: Evaluators
        self.added: deque[str] = deque()
        """Trials that the runner has still to train after those of `trials` at its start."""
        self.validations: dict[tuple[str, float], dict[str, float]] = {}
        """Digest and epoch -> the training loop's metrics at the epoch's end."""
        self.logs: dict[str, TrialLog] = {}
        self.clocks: dict[str, WorkClock] = {}
        self.sent_to_judge: set[tuple[str, int]] = set()
        self.troubles: dict[str, tuple[str, str]] = {}
        """Digest -> state and reason of a trial that did not finish."""
        self.unjudged: set[str] = set()
        """Trials whose training has ended and whose record is still open."""

    @contextmanager
    def at_work(self, evaluators: Evaluators) -> Iterator[None]:
        """A block in which trials run; at its end their last checkpoints are evaluated. Records that are still open
        then are ended as interrupted."""
        self.evaluators = evaluators
        try:
            with with_last_words(self._last_words), self.control.watching(self):
                yield
                self.control.closed.set()
                while evaluators.waiting:
                    self.judged(timeout_seconds=1)
        finally:
            evaluators.close()
            self._break_off()

    def _break_off(self) -> None:
        for log in self.logs.values():
            if not log.ended:
                log.fail(INTERRUPTED)

    def _last_words(self) -> None:
        self._break_off()
        for log in self.logs.values():
            log.wait(SECONDS_TO_DELIVER)

    def begun(self, digest: str) -> None:
        """Open the trial's record: it waits for its resources, or has them."""
        _, places = self.trials[digest]
        self.troubles.pop(digest, None)
        self._open(digest)
        self.clocks.setdefault(digest, WorkClock(self.workers))
        self.control.begun(self, digest)
        self.logs[digest].tag({f"rendering.{name}": value for name, value in facts(places.model).items()})
        self.board.set_state(digest, "placing")

    def _open(self, digest: str) -> None:
        if digest not in self.logs or self.logs[digest].ended:
            self.logs[digest] = self.open_log(digest)

    def heard(self, digest: str, report: Mapping[str, Any]) -> None:
        """Take a report of the trial (`reports.Report`), or the number of its `workers` when they start."""
        self.clocks[digest].hear(report)
        if report.get("workers"):
            self.board.set_state(digest, "starting")
        points = [Point(*point) for point in report.get("points", ())]
        if points:
            self.board.rows[digest].update(points)
            self.board.set_state(digest, "training")
            self.logs[digest].points(points)
            for point in points:
                if {ACCURACY_CURVE, LOSS_CURVE} & point.metrics.keys():
                    self.validations[digest, point.metrics[EPOCH]] = point.metrics
        if report.get("finished"):
            self._finished(digest, Finished(*report["finished"]))
        if report.get("copied"):
            self.control.copied(self, digest, report["copied"])
        if report.get("said"):
            self.board.say(digest, report["said"])
        for state in ("diverged", "stopped", "interrupted", "failed"):
            if report.get(state):
                self.troubles[digest] = (state, report[state])

    def trained(self, digest: str, failure: str = "") -> None:
        """The trial's training has ended; `failure` says what went wrong."""
        if failure:
            self.troubles[digest] = ("failed", failure)
        elif self.evaluators.are_judging(digest):
            self.board.set_state(digest, "judging")
        self.control.ended(self, digest)
        self.unjudged.add(digest)
        self._end_where_judged(digest)

    def under_way(self) -> set[str]:
        """Trials that have begun and whose training has not ended."""
        begun = {digest: self.logs[digest] for digest in self.clocks}  # clones that wait for room are not among them
        return {digest for digest, log in begun.items() if not log.ended and digest not in self.unjudged}

    def at_steps(self) -> set[str]:
        """Those of them that have reported a step since they were given their place."""
        return {digest for digest in self.under_way() if self.board.rows[digest].state == "training"}

    def state_of(self, digest: str) -> tuple[str, str]:
        """How a trial's training has ended, and why."""
        return self.troubles.get(digest, ("finished", ""))

    def say(self, digest: str, what: str) -> None:
        """Print a message about a trial."""
        self.board.say(digest, what)

    def again(self, digest: str) -> None:
        """Have the runner train a trial once more, from its last state, when there is room."""
        self.added.append(digest)

    def join(self, parent: str, clone: TrialConfig, label: str) -> None:
        """Have the runner train a clone of a trial, too, when there is room."""
        _, places = self.trials[parent]
        self.trials[clone.digest] = clone, places
        row = Row(f"{self.board.rows[parent].label} {label}", clone.epochs)
        self.board.rows = {**self.board.rows, clone.digest: row}  # a new dict: another thread draws the table
        self._open(clone.digest)  # in the ledger at once: if it is interrupted before it begins, it is not forgotten
        self.added.append(clone.digest)

    def judged(self, timeout_seconds: float = 0.0) -> None:
        """Take the results that evaluators have by now, or within some seconds, and carry out what persons ask for.
        Runners call it all the time."""
        self.board.beat()
        self.control.obey(self)
        for one, scores, failure in self.evaluators.results(timeout_seconds):
            if scores is None:
                self._could_not_judge(one, one.suite, failure)
            else:
                self._judged(one, scores)
            self._end_where_judged(one.digest)

    def _finished(self, digest: str, finished: Finished) -> None:
        trial, places = self.trials[digest]
        if self.goes_on is not None and finished.epoch < trial.epochs:
            leave = self.goes_on(digest, finished.epoch, self.validations[digest, finished.epoch][ACCURACY_CURVE])
            write_answer(places.trial(trial), finished.epoch, GO_ON if leave else STOP)
        if (digest, finished.epoch) not in self.sent_to_judge:
            self.sent_to_judge.add((digest, finished.epoch))
            self.board.line(digest, f"epoch {finished.epoch} done")
            if isinstance(trial, TrialConfig):
                self.evaluators.submit(trial, places, finished, self._recalled(digest, finished))
                return
            loss = self.validations[digest, finished.epoch][LOSS_CURVE]
            self.logs[digest].evaluated(finished.epoch, {VALIDATION_LOSS: loss}, (), finished.checkpoint)

    def _recalled(self, digest: str, finished: Finished) -> set[str]:
        """What had judged the epoch before an interruption; its files are handed over again."""
        log = self.logs[digest]
        known = log.judged(finished.epoch)
        for suite in known - {REWARD}:
            self._hand_over(Judgement(digest, finished, suite))
        if REWARD in known:
            self.board.rows[digest].score = log.reward_accuracy(finished.epoch)
        return known

    def _hand_over(self, one: Judgement) -> None:
        trial, places = self.trials[one.digest]
        folder = artifacts_folder(places, trial, one.finished.epoch) / one.suite
        fetch_files(folder)
        self.logs[one.digest].artifacts(folder, f"evaluations/epoch-{one.finished.epoch:04d}/{one.suite}")

    def _judged(self, one: Judgement, scores: dict[str, Any]) -> None:
        log, metrics, finished = self.logs[one.digest], scores["metrics"], one.finished
        if one.suite == REWARD:
            self.board.rows[one.digest].score = metrics[REWARD_ACCURACY]
            log.evaluated(finished.epoch, metrics, scores["correct"], finished.checkpoint)
            return
        tags = {f"evaluation.{one.suite}.{name}": value for name, value in scores.get("facts", {}).items()}
        missing = scores.get("missing", {})
        if missing:  # the next command tries again
            log.points([Point(finished.epoch, time.time_ns() // 1_000_000, metrics)])
            log.tag(tags)
        else:
            log.judged_by(one.suite, finished.epoch, metrics, tags)
        for name, why in missing.items():
            self._could_not_judge(one, f"{one.suite}.{name}", why)
        self._hand_over(one)
        self.board.line(one.digest, f"epoch {finished.epoch}: {one.suite} done")

    def _could_not_judge(self, one: Judgement, suite: str, reason: str) -> None:
        """Fail the trial if it has no reward accuracy, as it cannot be ranked; any other missing result is noted."""
        epoch = one.finished.epoch
        if suite == REWARD:
            self.troubles.setdefault(one.digest, ("failed", f"epoch {epoch} could not be judged: {reason}"))
            return
        self.logs[one.digest].tag({f"evaluation.{suite}.epoch-{epoch:04d}": reason})
        self.board.say(one.digest, f"epoch {epoch} without {suite}: {reason}")

    def _end_where_judged(self, digest: str) -> None:
        """Close the trial's record if its training has ended and all its checkpoints are evaluated."""
        if digest not in self.unjudged or self.evaluators.are_judging(digest):
            return
        self.unjudged.discard(digest)
        state, reason = self.state_of(digest)
        log = self.logs[digest]
        if state == "finished":
            log.finish(self.clocks[digest].seconds())
        elif state == "diverged":
            log.diverged(reason)
        elif state == "stopped":
            log.stopped(reason, self.clocks[digest].seconds())
        else:
            log.fail(INTERRUPTED if state == "interrupted" else reason)
        self.board.set_state(digest, state, reason)
