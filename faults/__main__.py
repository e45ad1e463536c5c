"""`python -m faults`: fire faults at real code, and count what is lost, doubled or hangs."""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faults.engine import Ring, Row, Table, as_markdown, one, run
from mmpo_train.terminal import console, run_program

Name = Literal["ledger", "training", "judges", "stages"]
SHARES: dict[Name, float] = {"ledger": 0.35, "training": 0.3, "judges": 0.3, "stages": 0.05}
"""Each ring's share of the cases. A case of a whole stage takes as long as fifty of the others."""


@dataclass(frozen=True, kw_only=True)
class FaultOptions:
    """Fire faults at the ledger, the training core, the judges and whole stages, and write the table."""

    n: int = 40
    """Number of faults, over all rings."""
    seed: int = 0
    """Seed of the random moments and places; it is printed. 0 takes the time of day."""
    ring: tuple[Name, ...] = ("ledger", "training", "judges", "stages")
    """The rings at which faults are fired."""
    case: int = -1
    """Run this case alone, as the campaign of this seed has it."""
    out: Path | None = None
    """File for the table. Without it the table is shown alone."""
    folder: Path | None = None
    """Where cases are run, and kept if anything is wrong with them."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run. Exit status 1 if anything was lost, doubled, hung or failed."""
    run_program(FaultOptions, _fire, "python -m faults", arguments)


def _fire(options: FaultOptions) -> None:
    seed, began = options.seed or int(time.time()), time.monotonic()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    console.print(f"seed {seed}, in {folder}", highlight=False)

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    table: Table = {}
    shares = sum(SHARES[name] for name in options.ring)
    for name in options.ring:
        inputs = folder / f"{name}-inputs"
        shutil.rmtree(inputs, ignore_errors=True)
        inputs.mkdir(parents=True)
        ring = _ring(name)(inputs)
        if options.case >= 0:
            kind = list(ring.kinds)[options.case % len(ring.kinds)]
            one(ring, kind, options.case, seed, folder, say, table.setdefault((name, kind), Row()))
            continue
        count = max(1, round(options.n * SHARES[name] / shares))
        try:
            for so_far in run(ring, count, seed, folder, say):
                table |= so_far
                _write(options, table, seed, time.monotonic() - began)
        except KeyboardInterrupt:
            say("interrupted: the table has the cases until now")
            break
    say(as_markdown(table))
    if any(row.lost + row.doubled + row.hung + row.failed for row in table.values()):
        sys.exit(1)


def _ring(name: Name) -> Callable[[Path], Ring]:
    if name == "ledger":
        from faults.ledger import LedgerRing

        return LedgerRing
    if name == "training":
        from faults.training import Training

        return Training
    if name == "judges":
        from faults.judges import Judges

        return Judges
    from faults.stages import Stages

    return Stages


def _write(options: FaultOptions, table: Table, seed: int, seconds: float) -> None:
    if options.out is not None:
        machine = f"{os.cpu_count()} CPU cores, {platform.platform()}, {time.strftime('%Y-%m-%d')}"
        head = f"Seed {seed}, {seconds / 60:.0f} minutes on {machine}.\n\n"
        options.out.write_text(head + as_markdown(table))


if __name__ == "__main__":
    main()
