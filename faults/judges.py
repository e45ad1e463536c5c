"""The ring of the judges: forty pairs judged over HTTP, by a server on localhost that errs as real ones do."""

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from faults import files, processes
from faults.engine import Case, Found, NotFired
from tests.support.standins.judge_server import WITHOUT_VERDICT, Fault, JudgeServer, Request

PAIRS = 40
AT_ONCE = 8
ERRORS: dict[str, list[Fault]] = {
    "429": [Fault(status=429, retry_after_seconds=0.02)],
    "500, 502, 503": [Fault(status=status, retry_after_seconds=0.02) for status in (500, 502, 503)],
    "time-outs": [Fault(delay_seconds=1.5)],
    "garbage": list(WITHOUT_VERDICT.values()),
    "hang-ups": [Fault(hang_up=True)],
}
"""Kind -> what a third of the requests meet."""
PATIENCE_SECONDS, SHORT_SECONDS = 20.0, 0.5
"""How long a reply may take: long, since on a busy machine a reply that comes too late is paid for again."""


class Judges:
    """The server is in this process; who asks it is in one of its own, with a cache on disk."""

    name = "judges"

    def __init__(self, folder: Path) -> None:
        """Judges all pairs undisturbed."""
        self.patience = PATIENCE_SECONDS
        self.server = JudgeServer(verdict=_verdict)
        self.server.__enter__()
        self.spec = self.server.spec()
        _, self.seconds = processes.undisturbed(self.work, self.name, folder)
        of_work: dict[str, Any] = {"undisturbed": self.seconds}
        of_process: dict[str, Callable[[Case], float]] = {
            name: partial(processes.signalled, self.work, numbers=numbers, **of_work)
            for name, numbers in processes.SIGNALS.items()
        }
        of_process |= {
            name: partial(files.damaged, self.work, damage=damage, but="lock", **of_work)
            for name, damage in files.DAMAGES.items()
        }
        of_process |= {
            "stopped and woken": partial(processes.stopped, self.work, **of_work),
            "two drivers at once": partial(processes.two_at_once, self.work, **of_work),
            "memory limit": partial(processes.out_of_memory, self.work, **of_work),
        }
        if os.geteuid() == 0:
            of_process["full disk"] = partial(files.full, self.work, size=60_000)
        of_server = {f"judge: {name}": partial(self._erring, errors=errors) for name, errors in ERRORS.items()}
        self.kinds: dict[str, Callable[[Case], float]] = {
            name: partial(self._counted, fire) for name, fire in (of_process | of_server).items()
        }
        self.kinds["judge moved to another port"] = partial(self._counted, self._moved)

    def work(self, storage: Path) -> None:
        """All pairs, a few at a time, as the evaluations ask."""
        from eval_workers.judging.clients import Limits
        from eval_workers.judging.judges import judge_pairs, open_judge
        from mmpo_train.terminal import run_program

        def judge(_: processes.NoOptions) -> None:
            limits = Limits(timeout_seconds=self.patience, transport_retries=5, verdict_retries=5)
            judge = open_judge(self.spec, cache=storage / "verdicts.sqlite", limits=limits)
            verdicts, count = judge_pairs(judge, *pairs())
            print("verdicts", verdicts, repr(count))

        run_program(processes.NoOptions, judge, "the judges' ring", [])

    def _counted(self, fire: Callable[[Case], float], case: Case) -> float:
        """With a server that remembers nothing of earlier cases."""
        self.server.requests.clear()
        self.server.charged.clear()
        return fire(case)

    def _erring(self, case: Case, errors: list[Fault]) -> float:
        random, met = Random(case.random.random()), 0
        lock = threading.Lock()

        def fault_of(_: Request) -> Fault:
            nonlocal met
            with lock:
                if random.random() > 1 / 3:
                    return Fault()
                met += 1
                return random.choice(errors)

        self.server.fault_of = fault_of
        self.patience = SHORT_SECONDS if any(error.delay_seconds for error in errors) else PATIENCE_SECONDS
        try:
            seconds = processes.finish(self.work, case)
        finally:
            self.server.fault_of, self.patience = (lambda request: Fault()), PATIENCE_SECONDS
        if not met:
            raise NotFired("no request met a fault")
        return seconds

    def _moved(self, case: Case) -> float:
        processes.killed(self.work, case, self.seconds)
        spec = self.spec
        with JudgeServer(verdict=_verdict) as moved:
            # What it is asked counts as asked of the first: they are one judge.
            moved.requests, moved.charged = self.server.requests, self.server.charged
            self.spec = moved.spec()
            seconds = processes.finish(self.work, case)
        self.spec = spec
        return seconds

    def compare(self, case: Case) -> Found:
        """One verdict for each pair, that of the undisturbed judge; paid once but for what was under way or has no
        verdict or was lost with a damaged file; and nothing is asked in one more run."""
        found = Found()
        asked, charged = len(self.server.requests), len(self.server.charged)
        processes.finish(self.work, case)
        said = case.log.read_text(errors="replace").rpartition("verdicts ")[2]
        expected = f"{expected_verdicts()} JudgeCount(judged={PAIRS}, dropped=0"
        if not said.startswith(expected):
            found.lost.append(f"verdicts: {said[:300]}")
        if len(self.server.requests) > asked:
            found.doubled.append(f"one more run asked {len(self.server.requests) - asked} times")
        under_way = AT_ONCE * 2
        # A stopped client, too, finds its requests timed out; two drivers that ask at once pay both.
        pays_again = ("time-outs", "garbage", "stopped", "two drivers")
        damaged = case.kind in files.DAMAGES or any(name in case.kind for name in pays_again)
        if charged > PAIRS + under_way and not damaged:
            found.doubled.append(f"{charged} replies were paid for")
        return found


def pairs() -> tuple[list[str], list[str], list[str]]:
    """Questions and two answers to each."""
    numbers = range(PAIRS)
    return [f"What is {n} and 3?" for n in numbers], [f"{n + 3}" for n in numbers], [f"It is {n + 4}." for n in numbers]


def _verdict(request: Request) -> str:
    """By the sum of the answer's letters: as good as a coin, and always the same."""
    first, second = (sum(request.shown(name).encode()) % 97 for name in ("answer-a", "answer-b"))
    return "A" if first > second else "B" if second > first else "tie"


def expected_verdicts() -> list[Any]:
    """The verdicts, found without any judge."""
    from eval_workers.judging.verdicts import LOSS, TIE, WIN

    _, firsts, seconds = pairs()
    scores = [[sum(text.encode()) % 97 for text in both] for both in zip(firsts, seconds, strict=True)]
    return [WIN if one > other else LOSS if other > one else TIE for one, other in scores]
