"""The campaign of faults, as `make faults` runs it, in small."""

import subprocess
import sys

import pytest

from faults.engine import TRIES, Campaign, Case, Found, NotFired, Row
from tests.support.workers import REPOSITORY


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("ring", "faults"),
    [("judges", 1), *(pytest.param(ring, 20, marks=pytest.mark.slow) for ring in ("ledger", "training", "judges"))],
)
def test_nothing_is_lost_or_doubled_and_nothing_hangs(ring, faults, tmp_path):
    """A fault of each kind. What is not as in an undisturbed run is printed, with how to run it again."""
    words = [sys.executable, "-m", "faults", "--ring", ring, "--n", str(faults), "--folder", str(tmp_path / "cases")]
    words += ["--out", str(tmp_path / "table.md")]
    run = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    counts = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert f"**{faults}** | **0** | **0** | **0** | **0**" in counts


class Made:
    """A ring whose second case is interrupted at the first try, whose third has two faults and loses something, and
    whose fourth comes too late at first."""

    name = "made"

    def __init__(self) -> None:
        self.kinds = {"one": lambda case: 1.5, "broken off": self.broken_off, "two faults": self.two, "late": self.late}
        self.tries = 0

    def broken_off(self, case: Case) -> float:
        self.tries += 1
        if self.tries == 1:
            raise KeyboardInterrupt
        raise NotFired("never")

    def two(self, case: Case) -> None:
        case.row("first").fired += 1
        case.row("second").fired += 1
        case.row("second").seconds += [2.0, 4.0]

    def late(self, case: Case) -> float:
        assert not list(case.folder.iterdir())
        (case.folder / "written").touch()
        if case.attempt < 2:
            raise NotFired("the work had ended before")
        return float(case.attempt)

    def compare(self, case: Case) -> Found:
        return Found(lost=["a step"] if case.kind == "two faults" else [])


def test_a_campaign_that_was_interrupted_goes_on_and_campaigns_that_share_a_file_make_one_table(tmp_path):
    said: list[str] = []
    first, second = (Campaign(tmp_path / "cases.jsonl", seed, tmp_path, said.append) for seed in (1, 2))
    ring = Made()
    with pytest.raises(KeyboardInterrupt):
        first.run(ring, 4)
    assert first.table() == {("made", "one"): Row(fired=1, seconds=[1.5])}
    first.run(ring, 4)
    assert ring.tries == 1 + TRIES
    second.run(ring, 1)
    expected = {
        ("made", "one"): Row(fired=2, seconds=[1.5, 1.5]),
        ("made", "broken off"): Row(failed=1),
        ("made", "first"): Row(fired=1),
        ("made", "second"): Row(fired=1, lost=1, seconds=[2.0, 4.0]),
        ("made", "late"): Row(fired=1, seconds=[2.0]),
    }
    assert first.table() == second.table() == expected
    assert "Seeds 1, 2;" in first.as_markdown() and "| **all** | | **5** | **1** | **0** | **0** | **1** |" in (
        first.as_markdown()
    )
    assert [line for line in said if "--case 2 --seed 1" in line] and "    lost a step" in said
    first.run(ring, 4)  # the case that failed is run again, and its new line takes the old one's place
    assert ring.tries == 1 + 2 * TRIES and first.table() == expected
