"""Go on with a trial that a person has stopped: `mmpo go RUN`."""

from dataclasses import dataclass

from mmpo.tagging import TagOptions, ask
from mmpo_train.terminal import run_program
from sweeps.ledger.tags import GO


@dataclass(frozen=True, kw_only=True)
class GoOptions(TagOptions):
    """Go on with a trial that a person has stopped."""


def main(arguments: list[str] | None = None) -> None:
    """Ask it from the command line."""
    run_program(GoOptions, lambda options: ask(options, GO), "mmpo go", arguments)


if __name__ == "__main__":
    main()
