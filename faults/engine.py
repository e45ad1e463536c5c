"""Cases, their order and their count. A case is a set-up, a fault at a random moment, the same work again until it ends
well, and an oracle."""

import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

COUNTS = ("lost", "doubled", "hung")


class Hung(Exception):
    """A process did not end in the time that it had."""


class NotFired(Exception):
    """The fault could not be proven to have happened: the case counts for nothing, and fails."""


@dataclass
class Found:
    """What the oracle found in one case."""

    lost: list[str] = field(default_factory=list)
    """Points, runs, verdicts or files that the undisturbed run has and this one has not, or has otherwise."""
    doubled: list[str] = field(default_factory=list)
    """What there is twice, was paid for twice, or was made again by one more run."""


@dataclass(frozen=True)
class Case:
    """One fault at one set-up."""

    ring: str
    kind: str
    random: Random
    folder: Path
    """Its own, empty."""
    forget: list[Callable[[], None]] = field(default_factory=list)
    """What a ring has to do when the work is begun from nothing again, since it had ended before the fault."""

    @property
    def storage(self) -> Path:
        """What the work writes to."""
        return self.folder / "storage"

    @property
    def log(self) -> Path:
        """What the work's processes say."""
        return self.folder / "log.txt"


class Ring(Protocol):
    """What faults are fired at."""

    name: str
    kinds: Mapping[str, Callable[[Case], float]]
    """Kind -> what sets up, fires, proves and mends: seconds from the fault to the good end. Raises NotFired, Hung."""

    def compare(self, case: Case) -> Found:
        """The oracle, over what lies in the case's folder; the last thing that it does is one more run."""


@dataclass
class Row:
    """The cases of one kind."""

    fired: int = 0
    lost: int = 0
    doubled: int = 0
    hung: int = 0
    failed: int = 0
    """Cases whose fault was not proven, or that ended in an error that no user could act on."""
    seconds: list[float] = field(default_factory=list)


Table = dict[tuple[str, str], Row]
"""(Ring, kind) -> its counts."""


def run(ring: Ring, cases: int, seed: int, folder: Path, say: Callable[[str], None]) -> Iterator[Table]:
    """The table so far, after each of the cases; each kind in turn. What fails is said with how to run it again."""
    table: Table = {}
    names = list(ring.kinds)
    for number in range(cases):
        kind = names[number % len(names)]
        one(ring, kind, number, seed, folder, say, table.setdefault((ring.name, kind), Row()))
        yield table


def one(ring: Ring, kind: str, number: int, seed: int, folder: Path, say: Callable[[str], None], row: Row) -> None:
    """Run one case and count it. Its folder is kept if anything is wrong."""
    case = Case(ring.name, kind, Random(f"{seed} {ring.name} {number}"), folder / f"{ring.name}-{number:05d}")
    shutil.rmtree(case.folder, ignore_errors=True)
    case.folder.mkdir(parents=True)
    problems: list[str] = []
    try:
        row.seconds.append(ring.kinds[kind](case))
        row.fired += 1
        found = ring.compare(case)
        row.lost += bool(found.lost)
        row.doubled += bool(found.doubled)
        problems = [f"lost {one}" for one in found.lost] + [f"doubled {one}" for one in found.doubled]
    except Hung as why:
        row.fired, row.hung = row.fired + 1, row.hung + 1
        problems = [f"hung: {why}"]
    except NotFired as why:
        row.failed += 1
        problems = [f"not fired: {why}"]
    except Exception:  # noqa: BLE001 - whatever it is, the other cases are run
        row.failed += 1
        problems = [traceback.format_exc()]
    if not problems:
        shutil.rmtree(case.folder)
        return
    say(f"{ring.name} {kind}: python -m faults --ring {ring.name} --case {number} --seed {seed}  ({case.folder})")
    for problem in problems[:5]:
        say(f"    {problem}")


def as_markdown(table: Table) -> str:
    """The table of docs/faults.md."""
    lines = [
        "| at | kind | fired | lost | doubled | hung | failed | seconds to recover, median and most |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (ring, kind), row in table.items():
        spread = f"{sorted(row.seconds)[len(row.seconds) // 2]:.1f}, {max(row.seconds):.1f}" if row.seconds else ""
        counts = f"{row.fired} | {row.lost} | {row.doubled} | {row.hung} | {row.failed}"
        lines.append(f"| {ring} | {kind} | {counts} | {spread} |")
    totals = [sum(getattr(row, name) for row in table.values()) for name in ("fired", *COUNTS, "failed")]
    lines.append(f"| **all** | | {' | '.join(f'**{total}**' for total in totals)} | |")
    return "\n".join(lines) + "\n"


def within(seconds: float, what: str, happened: Callable[[], bool], pause: float = 0.02) -> float:
    """Seconds until `happened` is true. Raises Hung."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > seconds:
            raise Hung(f"{what} after {seconds:.0f} s")
        time.sleep(pause)
    return time.monotonic() - began
