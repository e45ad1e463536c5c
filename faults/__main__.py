"""`python -m faults`: fire faults at real code, and count what is lost, doubled or hangs."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faults.engine import Campaign, Ring
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
    goodput: float = 0.0
    """Measure what faults cost instead: a long stage with a fault every so many seconds, beside an undisturbed one."""
    out: Path | None = None
    """File for the table. Without it the table is shown alone."""
    cases: Path | None = None
    """File with a line for each case. Cases that it has already are not run again and count in the table."""
    folder: Path | None = None
    """Where cases are run, and kept if anything is wrong with them."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run. Exit status 1 if anything was lost, doubled, hung or failed."""
    run_program(FaultOptions, _fire, "python -m faults", arguments)


def _fire(options: FaultOptions) -> None:
    # Else what is started does not hear them where the campaign ignores them: by `&` in a script, by `nohup`.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    seed = options.seed or int(time.time())
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    say(f"seed {seed}, in {folder}")
    if options.goodput:
        from faults.goodput import goodput

        folder.mkdir(parents=True, exist_ok=True)
        say(goodput(folder, options.goodput, seed))
        return
    campaign = Campaign(options.cases or folder / "cases.jsonl", seed, folder, say)
    shares = sum(SHARES[name] for name in options.ring)
    for name in options.ring if options.n else ():
        inputs = folder / f"{name}-inputs"
        shutil.rmtree(inputs, ignore_errors=True)
        inputs.mkdir(parents=True)
        ring = _ring(name)(inputs)
        try:
            if options.case >= 0:
                campaign.one(ring, options.case)
            else:
                campaign.run(ring, max(1, round(options.n * SHARES[name] / shares)))
        except KeyboardInterrupt:
            say("interrupted: the table has the cases until now")
            break
    say(campaign.as_markdown())
    if options.out is not None:
        options.out.write_text(campaign.as_markdown())
    if any(row.lost + row.doubled + row.hung + row.failed for row in campaign.table().values()):
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


if __name__ == "__main__":
    main()
