"""Findings, and examinations that run at the same time, each with a time limit. Standard library only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mmpo_train.errors import InputError
from mmpo_train.redaction import masked

Verdict = Literal["fine", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    subject: str
    verdict: Verdict
    """fine, note (the stage can run) or problem (it cannot)."""
    found: str
    advice: str = ""
    """What to do about it."""


def fine(subject: str, found: str) -> Finding:
    """A finding that is as it should be."""
    return Finding(subject, "fine", found)


def note(subject: str, found: str, advice: str) -> Finding:
    """A finding worth knowing; the stage can run."""
    return Finding(subject, "note", found, advice)


def problem(subject: str, found: str, advice: str) -> Finding:
    """A finding because of which the stage cannot run."""
    return Finding(subject, "problem", found, advice)


Examination = Callable[[], Iterable[Finding]]


def examine(examinations: Mapping[str, Examination], seconds: float) -> list[Finding]:
    """The findings of all examinations in the order given. An error that one raises is its finding.

    They run at the same time; one that takes longer than `seconds` is a problem.
    """
    deadline = time.monotonic() + seconds
    results: dict[str, list[Finding]] = {}

    def work(subject: str, examination: Examination) -> None:
        results[subject] = _found(subject, examination)

    threads = [threading.Thread(target=work, args=one, daemon=True) for one in examinations.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = "check it by hand, or give it more time with --timeout-seconds"
    return [
        finding
        for subject in examinations
        for finding in results.get(subject, [Finding(subject, "problem", f"no answer in {seconds:.0f} s", late)])
    ]


def _found(subject: str, examination: Examination) -> list[Finding]:
    try:
        return [Finding(one.subject, one.verdict, masked(one.found), masked(one.advice)) for one in list(examination())]
    except InputError as error:
        return [Finding(subject, "problem", masked(str(error)))]
    except Exception as error:  # noqa: BLE001 - unforeseen faults of a machine are what the doctor looks for
        return [Finding(subject, "problem", masked(f"{type(error).__name__}: {first_line(error)}"))]


def first_line(error: object) -> str:
    """The first line of a message that is not empty, cut at 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
