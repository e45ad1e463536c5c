"""Mistakes of the user, told apart from faults of the program, and the end of a command before its time."""

import time
from collections.abc import Callable, Iterable


class InputError(Exception):
    """A mistake in what the user gave: a file, a row, a field, an address.

    The message says what was given, what was expected and what to do next. Programs print it without a traceback and
    exit with code 2.
    """


class Interrupted(KeyboardInterrupt):
    """The command ends before its work is done; the message says why."""

    latest: "Interrupted | None" = None
    """What a signal's handler raised. Within a call of Ray's it arrives as a plain KeyboardInterrupt."""
    signal: int = 0
    """The first signal that asked the command to end; 0 before it."""

    def __init__(self, why: str, status: int, at_once: bool = False) -> None:
        super().__init__(why)
        Interrupted.latest = self
        self.since = time.monotonic()
        self.status = status
        """Exit status."""
        self.at_once = at_once
        """Whether the libraries' own endings would hang."""


class Left(Exception):
    """The trial was told to go, and has written a state to continue from."""


def complaints(checks: Iterable[Callable[[], object]]) -> list[str]:
    """The messages of all checks that raise InputError, so that all bad fields are named at once."""
    found = []
    for check in checks:
        try:
            check()
        except InputError as error:
            found.append(str(error))
    return found


def first_line(error: Exception) -> str:
    """The first line of a library's message, cut to 200 characters, for use in a message of ours."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def in_brief(error: Exception) -> str:
    """Type and first line of an error, for a message."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"
