"""Cases, their order and their count. A case is a set-up, a fault at a random moment, the same work again until it ends
well, and an oracle."""

import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

COUNTS = ("lost", "doubled", "hung")
TRIES = 8
"""How often a fault that came too late is fired again, in a set-up of its own each time."""


class Hung(Exception):
    """A process did not end in the time that it had."""


class NotFired(Exception):
    """The fault could not be proven to have happened: mostly the work had just ended. It is fired again."""


@dataclass
class Found:
    """What the oracle found in one case."""

    lost: list[str] = field(default_factory=list)
    """Points, runs, verdicts or files that the undisturbed run has and this one has not, or has otherwise."""
    doubled: list[str] = field(default_factory=list)
    """What there is twice, was paid for twice, or was made again by one more run."""


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


@dataclass(frozen=True)
class Case:
    """A set-up and its fault, or several faults of kinds that the ring draws."""

    ring: str
    kind: str
    random: Random
    folder: Path
    """Its own, empty."""
    rows: dict[str, Row] = field(default_factory=dict)
    """Kind -> the counts of the faults that were fired; what is wrong in the end counts for the last of them."""
    damaged: set[Path] = field(default_factory=set)
    """Files that faults have damaged; the work may have written them anew since."""
    attempt: int = 0
    """How often the fault was not proven before."""

    def row(self, kind: str) -> Row:
        """The counts of a kind, which is the last one now."""
        self.rows[kind] = self.rows.pop(kind, Row())
        return self.rows[kind]

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

    @property
    def kinds(self) -> Mapping[str, Callable[[Case], float | None]]:
        """Kind -> what sets up, fires, proves and mends: seconds from the fault to the good end, or None if it counted
        its faults itself. Raises NotFired, Hung."""

    def compare(self, case: Case) -> Found:
        """The oracle, over what lies in the case's folder; the last thing that it does is one more run."""


@dataclass(frozen=True)
class Campaign:
    """The cases that were run, one a line of a file: several runs, one after the other or at once, add to it."""

    file: Path
    seed: int
    folder: Path
    """Where cases are run, and kept if anything is wrong with them."""
    say: Callable[[str], None]

    def lines(self) -> dict[tuple[str, int, int, str], dict[str, Any]]:
        """(Ring, seed, number, kind) -> counts, day and machine of each case until now."""
        text = self.file.read_text() if self.file.exists() else ""
        rows = [json.loads(line) for line in text.splitlines()]
        return {(row["ring"], row["seed"], row["case"], row["kind"]): row for row in rows}

    def run(self, ring: Ring, cases: int) -> None:
        """Run the cases that the file has not yet, or that failed; each kind in turn."""
        there = {key[:3] for key, line in self.lines().items() if not line["failed"]}
        for number in range(cases):
            if (ring.name, self.seed, number) not in there:
                self.one(ring, number)

    def one(self, ring: Ring, number: int) -> None:
        """Run a case and write its lines. If anything is wrong, its folder is kept, and it says how to run it again."""
        kind = list(ring.kinds)[number % len(ring.kinds)]
        random = Random(f"{self.seed} {ring.name} {number}")
        for attempt in range(TRIES):
            folder = self.folder / f"{ring.name}-{self.seed}-{number:05d}-{attempt}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            case = Case(ring.name, kind, random, folder, attempt=attempt)
            problems, fired = _outcome(ring, case)
            if fired:
                break
            if attempt + 1 < TRIES:
                shutil.rmtree(folder)
        place = {"day": time.strftime("%Y-%m-%d"), "machine": f"{os.cpu_count()} CPU cores, {platform.platform()}"}
        with open(self.file, "a") as file:
            for one, row in case.rows.items():
                line = {"ring": ring.name, "seed": self.seed, "case": number, "kind": one, **asdict(row), **place}
                file.write(json.dumps(line) + "\n")
        if not problems:
            shutil.rmtree(case.folder)
            return
        words = f"python -m faults --ring {ring.name} --case {number} --seed {self.seed}"
        self.say(f"{ring.name} {list(case.rows)[-1]}: {words}  ({case.folder})")
        for problem in problems[:5]:
            self.say(f"    {problem}")

    def table(self) -> Table:
        """The counts of all cases."""
        table: Table = {}
        for line in self.lines().values():
            row = table.setdefault((line["ring"], line["kind"]), Row())
            for name in ("fired", *COUNTS, "failed"):
                setattr(row, name, getattr(row, name) + line[name])
            row.seconds += line["seconds"]
        return table

    def as_markdown(self) -> str:
        """The table of docs/faults.md, with seeds, days and machines."""
        lines = list(self.lines().values())
        if not lines:
            return ""
        seeds, days, machines = (sorted({line[key] for line in lines}) for key in ("seed", "day", "machine"))
        head = ", ".join(map(str, seeds)), " to ".join(dict.fromkeys((days[0], days[-1]))), "; ".join(machines)
        return f"Seeds {head[0]}; {head[1]}; {head[2]}.\n\n{as_markdown(self.table())}"


def _outcome(ring: Ring, case: Case) -> tuple[list[str], bool]:
    """What is wrong with a case, whose faults are fired and counted here; and whether they are proven."""
    try:
        seconds = ring.kinds[case.kind](case)
        if seconds is not None:
            case.row(case.kind).fired += 1
            case.row(case.kind).seconds.append(seconds)
        found = ring.compare(case)
        last = case.row(list(case.rows)[-1])
        last.lost += bool(found.lost)
        last.doubled += bool(found.doubled)
        return [f"lost {one}" for one in found.lost] + [f"doubled {one}" for one in found.doubled], True
    except Hung as why:
        last = case.row([case.kind, *case.rows][-1])
        last.fired, last.hung = max(1, last.fired), last.hung + 1
        return [f"hung: {why}"], True
    except NotFired as why:
        case.row([case.kind, *case.rows][-1]).failed += 1
        return [f"not fired: {why}"], False
    except Exception:  # noqa: BLE001 - whatever it is, the other cases are run
        case.row([case.kind, *case.rows][-1]).failed += 1
        return [traceback.format_exc()], True


def as_markdown(table: Table) -> str:
    """The table, a line for each kind of fault."""
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
