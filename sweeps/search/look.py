"""A look at the data before any model is loaded: what was read, what tokenisation cuts, and the first examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from mmpo_train.config import TrialConfig
from mmpo_train.terminal import print_examples, print_text
from sweeps.plan.options import SweepOptions
from sweeps.trials.runner import Runner

if TYPE_CHECKING:
    from mmpo_train.prepare import Inputs
    from mmpo_train.training import AnyInputs, Counts

READING, OPENING = "reading the model and the data", "opening the ledger"


class Look(NamedTuple):
    """What was shown of some data."""

    counts: Counts
    """Split -> what tokenisation kept, cut and dropped."""
    examples: dict[str, list[Any]]
    """The columns of a table; empty if none were asked for."""


_SEEN: WeakKeyDictionary[Runner, dict[Path, Look]] = WeakKeyDictionary()
"""Command, which has one runner -> its data: rounds and stages of a search have the same, and show it once."""


def inputs_of(config: TrialConfig, options: SweepOptions) -> Inputs:
    """The model and the data of a trial. Raises InputError for data that the options refuse."""
    from mmpo_train.prepare import identify

    return identify(config, options.folder, strict=options.strict, drop_bad_rows=options.drop_bad_rows)


def look(inputs: AnyInputs, options: SweepOptions, runner: Runner) -> Look:
    """Print the counts of the data, and the examples that the options ask for, unless the command has done so.

    The token tables are written, except in a dry run. Raises InputError if too few examples are left.
    """
    from mmpo_train.prepare import Inputs

    seen = _SEEN.setdefault(runner, {})
    if inputs.tokens not in seen:
        counts = runner.tokenise(inputs, keep=not options.dry_run)
        lines = inputs.data.audit.lines() + [line for split, count in counts.items() for line in count.lines(split)]
        print_text("\n".join(lines), "dim")
        examples = {}
        if options.show_examples and isinstance(inputs, Inputs):
            examples = print_examples(inputs, options.show_examples)
        seen[inputs.tokens] = Look(counts, examples)
    inputs.counts.update(seen[inputs.tokens].counts)  # type: ignore[arg-type]  # each kind of inputs has its own
    return seen[inputs.tokens]
