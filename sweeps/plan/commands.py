"""Commands as they are typed: the one that was given, and the next one."""

import dataclasses
import shlex
from collections.abc import Collection, Iterator
from typing import Any

from mmpo_train.redaction import masked
from mmpo_train.terminal import console, print_text
from mmpo_train.typed.options_file import OF_THE_COMMAND
from mmpo_train.typed.programs import as_typed, program_of
from sweeps.plan.labels import option
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import SEARCH, settled


def arguments_of(options: Any, leave_out: Collection[str] = (), settled: Collection[str] = ()) -> str:
    """The options that differ from their defaults, as they are typed; secrets are masked.

    `leave_out` names options, `settled` fields that --set must not repeat.
    """
    words: list[str] = []
    for path, value in _given(options, ""):
        name = path.rpartition(".")[2]
        typed = f"--{path.replace('_', '-')}"
        if name in leave_out:
            continue
        if isinstance(value, bool):
            words.append(typed)  # every flag is off by default
        elif name in ("dataset", "set"):
            kept = [one for one in value if name != "set" or one.partition("=")[0].strip() not in settled]
            words += [word for one in kept for word in (typed, shlex.quote(masked(one)))]
        else:
            several = value if isinstance(value, tuple) else (value,)
            words += [typed, *(shlex.quote(masked(str(one))) for one in several)]
    return "".join(f" {word}" for word in words)


def shared_options(options: SweepOptions) -> SweepOptions:
    """A script's options that every sweep has, without those for previews and logs."""
    own = {one.name: getattr(options, one.name) for one in dataclasses.fields(SweepOptions)}
    return SweepOptions(**own | {name: getattr(SweepOptions, name) for name in OF_THE_COMMAND})


def _given(options: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for one in dataclasses.fields(options):
        value = getattr(options, one.name)
        if dataclasses.is_dataclass(value):
            yield from _given(value, f"{prefix}{one.name}.")
        elif value != one.default:
            yield f"{prefix}{one.name}", value


def command(script: str, options: SweepOptions, leave_out: Collection[str] = ()) -> str:
    """The command of a script for the same model and data, with the choices given here that the script accepts."""
    words = arguments_of(shared_options(options), settled={*settled(script), *leave_out})
    given: dict[str, Any] = {name: getattr(options, name, None) for name in SEARCH[script].takes}
    words += "".join(f" {option(name)} {value:g}" for name, value in given.items() if value is not None)
    return f"{program_of(script)}{words}"


def same_command(script: str, options: SweepOptions) -> str:
    """The command that was given, without options for previews and logs."""
    return f"{program_of(script)}{arguments_of(options, leave_out=OF_THE_COMMAND)}"


def print_next(following: str, ui_command: str, page: str) -> None:
    """Print the commands that come next."""
    console.print("\nnext:", style="bold")
    typed = [as_typed(following)] if following else []
    for line in (*typed, as_typed(ui_command), page):
        print_text(f"  {line}")
