"""Stop a running trial; its state is kept, and nothing but `mmpo go` goes on with it: `mmpo stop RUN`."""

from dataclasses import dataclass

from mmpo.tagging import TagOptions, ask
from mmpo_train.terminal import run_program
from sweeps.ledger.tags import STOP


@dataclass(frozen=True, kw_only=True)
class StopOptions(TagOptions):
    """Stop a running trial. It writes a state to go on from."""


def main(arguments: list[str] | None = None) -> None:
    """Ask it from the command line."""
    run_program(StopOptions, lambda options: ask(options, STOP), "mmpo stop", arguments)


if __name__ == "__main__":
    main()
