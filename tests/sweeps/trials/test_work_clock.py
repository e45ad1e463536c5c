"""A trial's cost is what its workers worked."""

import pytest

from sweeps.trials import work_clock
from sweeps.trials.work_clock import WorkClock


def test_waiting_costs_nothing_and_half_the_workers_half(monkeypatch):
    """Placed at 100, heard until 130; the node is lost; two of four at 500, heard at 520: 30 + 20 / 2."""
    moments = iter((100.0, 110.0, 130.0, 500.0, 520.0))
    monkeypatch.setattr(work_clock.time, "monotonic", lambda: next(moments))
    clock = WorkClock(4)
    for report in ({"workers": 4}, {"points": []}, {"points": []}, {"workers": 2}, {"points": []}):
        clock.hear(report)
    assert clock.seconds() == pytest.approx(40.0)
