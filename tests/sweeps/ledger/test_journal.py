import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.ledger.journal import Journal, TrialTaken, read_entries


def point(step: int, **metrics: float | None) -> dict:
    return {"kind": "point", "step": step, "timestamp_ms": 1000 + step, "metrics": metrics}


def written(folder: Path, *entries: dict) -> Path:
    held = Journal(folder)
    for entry in entries:
        held.append(entry)
    held.close()
    return held.path


@pytest.mark.parametrize(
    "torn", [b'{"kind":"po', b'{"kind":"point"', b'{"kind":"point","step":3,"metrics":{"a":1', b"\x00\x00"]
)
def test_a_last_line_torn_by_a_kill_is_cut_off_and_the_next_entry_stands_alone(tmp_path, torn):
    path = written(tmp_path, point(1, loss=0.5), point(2, loss=0.4))
    with path.open("ab") as file:
        file.write(torn)
    held = Journal(tmp_path)
    held.append(point(3, loss=0.3))
    held.close()
    assert read_entries(path) == [point(1, loss=0.5), point(2, loss=0.4), point(3, loss=0.3)]
    assert path.read_bytes().count(b"\n") == 3


def test_a_last_line_that_lost_only_its_newline_is_kept(tmp_path):
    path = written(tmp_path, point(1, loss=0.5), point(2, loss=0.4))
    path.write_bytes(path.read_bytes()[:-1])
    held = Journal(tmp_path)
    held.append(point(3, loss=0.3))
    held.close()
    assert [entry["step"] for entry in read_entries(path)] == [1, 2, 3]


def test_a_metric_is_fresh_once_per_step_also_after_reopening(tmp_path):
    written(tmp_path, point(1, loss=0.5), point(2, loss=None))
    held = Journal(tmp_path)
    assert held.fresh(1, {"loss": 0.6, "accuracy": 0.7}) == {"accuracy": 0.7}
    assert held.fresh(2, {"loss": 0.6}) == {}
    assert held.fresh(3, {"loss": 0.6}) == {"loss": 0.6}
    held.close()


def test_values_that_are_no_finite_number_become_null(tmp_path):
    held = Journal(tmp_path)
    held.append(point(1, **held.fresh(1, {"loss": float("nan"), "norm": float("inf"), "rate": 1e-5})))
    held.close()
    assert read_entries(held.path) == [point(1, loss=None, norm=None, rate=1e-5)]


def test_a_full_disk_leaves_no_half_line(tmp_path):
    """A file size limit makes the write stop in the middle of the line, as a full disk does."""
    held = Journal(tmp_path)
    held.append(point(1, loss=0.5))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (held.path.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(OSError):
            held.append(point(2, loss=0.4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    held.append(point(3, loss=0.3))
    held.close()
    assert held.path.read_bytes().count(b"\n") == 2
    assert read_entries(held.path) == [point(1, loss=0.5), point(3, loss=0.3)]


def test_a_second_driver_is_told_who_has_the_trial(tmp_path):
    held = Journal(tmp_path / "3f2a")
    with pytest.raises(
        TrialTaken, match=rf"trial 3f2a is being run by process {os.getpid()} on .*run the same command again"
    ):
        Journal(tmp_path / "3f2a")
    held.close()
    Journal(tmp_path / "3f2a").close()


def test_a_killed_driver_holds_no_trial(tmp_path):
    """The child takes the trial, says so and waits to be killed."""
    code = (
        "import pathlib, sys; from sweeps.ledger.journal import Journal; "
        "held = Journal(pathlib.Path(sys.argv[1])); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(TrialTaken, match=f"process {child.pid} "):
        Journal(tmp_path)
    child.kill()
    child.wait()
    Journal(tmp_path).close()


def test_a_journal_keeps_its_identity_from_its_first_opening(tmp_path):
    held = Journal(tmp_path)
    identity = held.identity
    held.append({"kind": "opened", "journal": identity})
    held.close()
    again = Journal(tmp_path)
    assert again.identity == identity
    again.close()


def test_an_entry_of_which_any_bit_was_changed_is_no_entry(tmp_path):
    """A changed digit must not pass for another measurement: the state of the trial gives the point again."""
    whole = [point(step, loss=1 / step) for step in range(1, 4)]
    path = written(tmp_path, *whole)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :])
        assert all({name: entry[name] for name in whole[0]} in whole for entry in read_entries(path))


def test_entries_of_earlier_versions_have_no_sum_and_are_read(tmp_path):
    (tmp_path / "points.jsonl").write_text(json.dumps(point(1, loss=0.5)) + "\n")
    assert read_entries(tmp_path / "points.jsonl") == [point(1, loss=0.5)]


def test_a_journal_whose_opening_was_lost_keeps_its_name(tmp_path):
    """Or its trial would get a second run."""
    held = Journal(tmp_path)
    name = held.identity
    held.append({"kind": "opened", "journal": name})
    held.close()
    held.path.unlink()
    again = Journal(tmp_path)
    assert again.identity == name and again.entries == []
    again.close()
    for damaged in ("", "[]", "{"):
        (tmp_path / "owner.json").write_text(damaged)
        Journal(tmp_path).close()


def test_only_the_owner_reads_a_journal(tmp_path):
    path = written(tmp_path, point(1, loss=0.5))
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    Journal(tmp_path).close()
    assert path.stat().st_mode & 0o777 == 0o600
