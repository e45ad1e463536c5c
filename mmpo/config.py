"""Print the options in force as a file for `--config`: `mmpo config stage1 --set epochs=1 > sweep.yaml`."""

import sys
from dataclasses import dataclass
from typing import Annotated

from mmpo_train.errors import InputError
from mmpo_train.options import Positional
from mmpo_train.typed.programs import PROGRAMS, main_of

HAVE_NONE = ("report", "judge", "ask", "merge", "stop", "go", "clone", "extend", "export", "import", "config", "fields")


@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """Print the options that a program would run with, as a file for --config."""

    program: Annotated[str, Positional]
    """The program; its own options follow."""


def refuse(options: ConfigOptions) -> None:
    """Raises InputError: a program that there is was asked for its options before this."""
    known = ", ".join(name for name in PROGRAMS if name not in HAVE_NONE)
    raise InputError(f"{options.program} takes no file of options; those that do are {known}")


def main(arguments: list[str] | None = None) -> None:
    """Print the options of the program that the first word names."""
    from mmpo_train.terminal import run_program

    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in PROGRAMS and words[0] not in HAVE_NONE:
        main_of(words[0])([*words[1:], "--print-config"])
    else:
        run_program(ConfigOptions, refuse, "mmpo config", words)


if __name__ == "__main__":
    main()
