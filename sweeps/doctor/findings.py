"""Findings, and examinations that run at the same time, each with a time limit. Standard library only."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from mmpo_train.errors import InputError, first_line
from mmpo_train.redaction import masked


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    subject: str
    found: str
    advice: str = ""
    """What to do about it."""
    verdict: Literal["fine", "note", "problem"] = "fine"
    """fine, note (the stage can run) or problem (it cannot)."""


INSTALL = "pip install -c constraints.txt -e ."
fine = Finding
note = partial(Finding, verdict="note")
problem = partial(Finding, verdict="problem")
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
        for finding in results.get(subject, [problem(subject, f"no answer in {seconds:.0f} s", late)])
    ]


def _found(subject: str, examination: Examination) -> list[Finding]:
    try:
        return [replace(one, found=masked(one.found), advice=masked(one.advice)) for one in list(examination())]
    except InputError as error:
        return [problem(subject, masked(str(error)))]
    except Exception as error:  # noqa: BLE001 - unforeseen faults of a machine are what the doctor looks for
        return [problem(subject, masked(f"{type(error).__name__}: {first_line(error)}"))]
