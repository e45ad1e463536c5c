"""`mmpo NAME …`: the one command, which runs the program of that name. Standard library only."""

import ast
import difflib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmpo_train.typed.programs import PROGRAMS, main_of


def main(arguments: list[str] | None = None) -> None:
    """Run the program that the first word names; without one, list them all."""
    name, *rest = sys.argv[1:] if arguments is None else arguments or ["--help"]
    if name in PROGRAMS:
        main_of(name)(rest)
    elif name in ("-h", "--help"):
        print(_help())
    else:
        close = difflib.get_close_matches(name, PROGRAMS, n=1)
        known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(PROGRAMS)}"
        print(f"error: mmpo has no program {name!r}; {known}", file=sys.stderr)
        sys.exit(2)


def _help() -> str:
    lines = [f"  {name:15}{_sentence(*place.split(':'))}" for name, place in PROGRAMS.items()]
    return "\n".join(["usage: mmpo NAME [OPTIONS]", "", *lines, "", "mmpo NAME --help lists the options of a program."])


def _sentence(module: str, function: str = "") -> str:
    """The first line of the module's docstring, or of a function's in it, read without importing it."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree: Any = ast.parse(Path(spec.origin).read_text())
    said = ast.get_docstring(next((one for one in tree.body if getattr(one, "name", None) == function), tree))
    assert said is not None
    return said.splitlines()[0]


if __name__ == "__main__":
    main()
