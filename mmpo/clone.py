"""Clone a running trial with other settings, from its present state: `mmpo clone RUN learning_rate=3e-4`."""

from dataclasses import dataclass
from typing import Annotated

from mmpo.tagging import TagOptions, ask
from mmpo_train.options import Positional
from mmpo_train.terminal import run_program
from sweeps.ledger.tags import CLONE


@dataclass(frozen=True, kw_only=True)
class CloneOptions(TagOptions):
    """Clone a running trial: another one starts from its state, with other settings."""

    changes: Annotated[tuple[str, ...], Positional]
    """What changes, as FIELD=VALUE."""


def main(arguments: list[str] | None = None) -> None:
    """Ask it from the command line."""
    run_program(
        CloneOptions, lambda options: ask(options, " ".join([CLONE, *options.changes])), "mmpo clone", arguments
    )


if __name__ == "__main__":
    main()
