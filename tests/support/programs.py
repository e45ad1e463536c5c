"""The programs by name, as far as their command lines."""

from typing import Any
from unittest import mock

import pytest
import tyro

from makers.options import PROGRAMS


class _Parsed(Exception):
    """Ends a program where its command line is parsed."""


def parse(program: str, arguments: list[str]) -> Any:
    """The options that the program would run with; exits as it does where it refuses them."""
    parse_ = tyro.cli

    def stop(*given: Any, **more: Any) -> None:
        raise _Parsed(parse_(*given, **more))

    with mock.patch.object(tyro, "cli", stop), pytest.raises(_Parsed) as stopped:
        PROGRAMS[program](arguments)
    return stopped.value.args[0]
