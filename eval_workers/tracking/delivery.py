"""A background thread that does jobs in order, each until it succeeds."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from mmpo_train.redaction import masked

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


class Delivery:
    """First in, first out; a job that fails for a passing reason holds the others back until it succeeds."""

    def __init__(self, destination: str, may_pass: Callable[[Exception], bool]):
        """`may_pass` tells whether an error is worth another try."""
        self._destination, self._may_pass = destination, may_pass
        self._jobs: deque[tuple[Callable[[], None], str, Callable[[], None] | None]] = deque()
        self._changed = threading.Condition()
        self._done = 0
        self._stopping = False
        self._hurried = False
        self._thread: threading.Thread | None = None
        self.problem = ""
        """Why the job at the head has not succeeded yet; empty while all goes well."""

    def put(self, job: Callable[[], None], what: str, if_refused: Callable[[], None] | None = None) -> None:
        """Returns at once. `what` names the job in messages; `if_refused` follows a failure no other try can cure."""
        with self._changed:
            self._jobs.append((job, what, if_refused))
            if self._thread is None:
                # A daemon: a server that never comes back must not keep a finished sweep from exiting.
                self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout_seconds: float) -> int:
        """Jobs still not done when all are done, or none was done for so long."""
        with self._changed:
            self._hurried = True  # somebody waits: try now instead of after the pause
            self._changed.notify_all()
            while self._jobs:
                if not self._changed.wait_for(partial(self._more_than, self._done), timeout_seconds):
                    break
            return len(self._jobs)

    def flush(self, timeout_seconds: float, safe: str) -> None:
        """Returns when all jobs are done. Raises TimeoutError when none was done for so long; `safe` ends its text."""
        waiting = self.wait(timeout_seconds)
        if waiting:
            why = f" ({self.problem[:300]})" if self.problem else ""
            took = f"{self._destination} has taken nothing for {timeout_seconds:g} s{why}"
            raise TimeoutError(f"{took}; writes left: {waiting}. {safe}")

    def _more_than(self, done: int) -> bool:
        return self._done > done

    def stop(self) -> None:
        """End the thread after the job in hand; what is queued stays undone."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return
                job, what, if_refused = self._jobs[0]
            try:
                self._try_until_done(job, what)
            except _Stopping:
                return
            except Exception as error:  # noqa: BLE001 - the thread must outlive any one job
                log.warning("%s refused %s: %s", self._destination, what, self._text_of(error))
                if if_refused is not None:
                    if_refused()
            with self._changed:
                self._jobs.popleft()
                self._done += 1
                self._changed.notify_all()

    def _try_until_done(self, job: Callable[[], None], what: str) -> None:
        """Raises what no other try can cure, and _Stopping."""
        began = time.monotonic()

        def say_trouble(failed: RetryCallState) -> None:
            assert failed.outcome is not None
            text = self._text_of(failed.outcome.exception())
            if not self.problem:
                log.warning("%s does not take %s (%s); trying again until it does", self._destination, what, text)
            self.problem = text

        may_pass = retry_if_exception(self._may_pass)  # type: ignore[arg-type]
        wait = wait_exponential(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        Retrying(retry=may_pass, wait=wait, before_sleep=say_trouble, sleep=self._pause)(job)
        if self.problem:
            log.warning("%s answers again after %.0f s", self._destination, time.monotonic() - began)
        self.problem = ""

    def _pause(self, seconds: float) -> None:
        """Return after the pause, or when somebody waits. Raises _Stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._hurried, seconds)
            self._hurried = False
            if self._stopping:
                raise _Stopping

    def _text_of(self, error: BaseException | None) -> str:
        return masked(f"{type(error).__name__}: {error}")


class _Stopping(Exception):
    """No other try: the delivery is being stopped."""
