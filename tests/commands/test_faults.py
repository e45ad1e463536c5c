"""The campaign of faults, as `make faults` runs it, in small."""

import subprocess
import sys

import pytest

from tests.support.workers import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("ring", ["ledger", "training", "judges"])
def test_nothing_is_lost_or_doubled_and_nothing_hangs(ring, tmp_path):
    """One fault of each kind. What is not as in an undisturbed run is printed, with how to run it again."""
    words = [sys.executable, "-m", "faults", "--ring", ring, "--n", "20", "--folder", str(tmp_path / "cases")]
    words += ["--out", str(tmp_path / "table.md")]
    run = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    counts = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert "**20** | **0** | **0** | **0** | **0**" in counts
