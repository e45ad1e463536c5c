"""What a person did wrong, told apart from what the program did wrong."""

from collections.abc import Callable, Iterable


class InputError(Exception):
    """A mistake in what the user gave: a file, a row, a field, an address.

    The message says what was given, what was expected and what to do next. Command lines print it
    without a traceback and exit with code 2; everything else lets it pass.
    """


def complaints(checks: Iterable[Callable[[], object]]) -> list[str]:
    """What the checks that raise InputError say, so that all bad fields are named at once."""
    found = []
    for check in checks:
        try:
            check()
        except InputError as error:
            found.append(str(error))
    return found


def first_line(error: Exception) -> str:
    """A library's message in short, to stand inside of ours."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
