"""The end of a command before its trials are done."""

import signal
from pathlib import Path

import pytest

from mmpo_train.errors import Interrupted
from sweeps.cluster.leaving import Leaving, is_leaving


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("first", "second", "third")]


def test_only_trials_at_their_steps_are_waited_for_and_they_alone_are_told_to_go(folders):
    told = 0
    leaving = Leaving(lambda: told, lambda: folders)
    leaving.check({"first"})
    assert not any(map(is_leaving, folders))
    told = signal.SIGTERM
    leaving.check({"first"})
    assert [is_leaving(one) for one in folders] == [True, False, False]
    leaving.check({"first", "second"})  # it came to its first step since
    assert [is_leaving(one) for one in folders] == [True, True, False]
    with pytest.raises(Interrupted) as raised:
        leaving.check(())
    assert raised.value.status == 128 + signal.SIGTERM
    leaving.take_back()
    assert not any(map(is_leaving, folders))


def test_patience_has_an_end(folders, monkeypatch):
    monkeypatch.setattr("sweeps.cluster.leaving._SECONDS_TO_LEAVE", 0.0)
    leaving = Leaving(lambda: signal.SIGINT, lambda: folders)
    with pytest.raises(Interrupted):
        leaving.check({"first"})
        leaving.check({"first"})
