import logging
import threading
import time

import pytest

from eval_workers.tracking import delivery
from eval_workers.tracking.delivery import Delivery


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(delivery, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_SECONDS", 0.02)


def make(may_pass=lambda error: isinstance(error, ConnectionError)) -> Delivery:
    return Delivery("the ledger", may_pass)


def test_jobs_are_done_in_order_and_a_passing_failure_holds_the_others_back():
    done, failures = [], iter([ConnectionError(), ConnectionError()])

    def first() -> None:
        for error in failures:
            raise error
        done.append("first")

    worker = make()
    worker.put(first, "the first")
    worker.put(lambda: done.append("second"), "the second")
    assert worker.wait(5) == 0
    assert done == ["first", "second"]
    worker.stop()


def test_waiting_goes_on_as_long_as_jobs_get_done():
    worker = make()
    for _ in range(8):
        worker.put(lambda: time.sleep(0.1), "a slow job")
    assert worker.wait(0.3) == 0
    worker.stop()


def test_a_job_refused_for_good_is_reported_without_secrets_and_does_not_block(caplog):
    done = []

    def refused() -> None:
        raise ValueError("password=hunter2")

    worker = make()
    worker.put(refused, "the metrics of 3f2a", lambda: done.append(0))
    worker.put(lambda: done.append(1), "another")
    assert worker.wait(5) == 0
    assert done == [0, 1]
    assert "the ledger refused the metrics of 3f2a: ValueError: password=***" in caplog.text
    worker.stop()


def test_putting_returns_while_a_job_hangs_and_waiting_says_how_many_are_left():
    release = threading.Event()

    def hang() -> None:
        release.wait()

    worker = make()
    worker.put(hang, "a job that hangs")
    for _ in range(3):
        worker.put(lambda: None, "another")
    assert worker.wait(0.05) == 4
    release.set()
    assert worker.wait(5) == 0
    worker.stop()


def test_an_outage_is_said_once_when_it_begins_and_once_when_it_ends(caplog):
    failures = iter([ConnectionError("gone")] * 5)

    def job() -> None:
        for error in failures:
            raise error

    worker = make()
    with caplog.at_level(logging.WARNING):
        worker.put(job, "points")
        assert worker.wait(5) == 0
    assert caplog.text.count("trying again") == 1
    assert caplog.text.count("answers again") == 1
    assert worker.problem == ""
    worker.stop()


def test_stopping_leaves_what_is_queued_undone():
    worker = make()

    def down() -> None:
        raise ConnectionError("gone")

    worker.put(down, "points")
    assert worker.wait(0.1) == 1
    assert worker.problem == "ConnectionError: gone"
    worker.stop()
    assert worker.wait(0.1) == 1
