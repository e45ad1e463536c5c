"""Train on to more epochs in a clone of a running trial: `mmpo extend RUN epochs=5`."""

from dataclasses import dataclass
from typing import Annotated

from mmpo.tagging import TagOptions, ask
from mmpo_train.options import Positional
from mmpo_train.terminal import run_program
from sweeps.ledger.tags import EXTEND


@dataclass(frozen=True, kw_only=True)
class ExtendOptions(TagOptions):
    """Extend a running trial: a clone starts from its state and trains to more epochs."""

    changes: Annotated[tuple[str, ...], Positional]
    """The epochs to train to, as epochs=N."""


def main(arguments: list[str] | None = None) -> None:
    """Ask it from the command line."""
    run_program(
        ExtendOptions, lambda options: ask(options, " ".join([EXTEND, *options.changes])), "mmpo extend", arguments
    )


if __name__ == "__main__":
    main()
