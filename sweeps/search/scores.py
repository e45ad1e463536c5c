"""What models score on the validation pairs by a trial's own score, from log-probabilities that are kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.acting_fields import score_of
from mmpo_train.config import digest_of
from mmpo_train.errors import InputError
from mmpo_train.storage.mirror import fetch, is_here
from sweeps.plan.trials import Planned

if TYPE_CHECKING:
    import numpy as np

    from mmpo_train.trial.metrics import Validation

CHECKED_PROMPTS = 64
"""Number of training prompts on which the gradients of a shared training are compared."""


def scored(trial: Planned, logps: Path) -> Validation:
    """Metrics and verdicts of a checkpoint by the trial's own score; `logps` is the folder of its log-probabilities."""
    from mmpo_train.model.reference import read_reference
    from mmpo_train.trial.metrics import validate

    fetch(logps)
    ref_logps, tokens = _validation_pairs(*_folders(trial))
    return validate(trial.config, read_reference(logps, "validation"), ref_logps, tokens)


def starting_models(trials: Iterable[Planned]) -> dict[str, dict[str, float]]:
    """Digest -> metrics of the starting model by the trial's own score, for the trials whose reference store exists."""
    from mmpo_train.prepare import reference_folder
    from mmpo_train.trial.metrics import validate

    there: dict[int, bool] = {}
    known: dict[tuple[int, str], dict[str, float]] = {}
    found = {}
    for one in trials:
        inputs, score = id(one.inputs), (id(one.inputs), digest_of(score_of(one.config)))
        if inputs not in there:
            there[inputs] = is_here(one.inputs.tokens) and is_here(reference_folder(one.inputs))
        if there[inputs]:
            if score not in known:
                ref_logps, tokens = _validation_pairs(*_folders(one))
                known[score] = validate(one.config, ref_logps, ref_logps, tokens).metrics
            found[one.digest] = known[score]
    return found


def check_gradients(trials: Sequence[Planned]) -> float:
    """The largest difference between the trials' gradients on the first training prompts, with their real reference
    log-probabilities.

    Raises InputError if it is more than rounding: the declaration that their model is the same would be wrong.
    """
    import numpy as np

    from mmpo_train.model.reference import read_reference
    from mmpo_train.trial.gradient_check import TOLERANCE, largest_difference

    ref_logps = read_reference(_folders(trials[0])[1], "train")[:CHECKED_PROMPTS]
    # The numbers of tokens are made up: only length normalisation reads them.
    tokens = np.where(ref_logps != 0, np.random.default_rng(0).integers(1, 500, ref_logps.shape), 0)
    difference = largest_difference([one.config for one in trials], ref_logps, tokens)
    if difference > TOLERANCE:
        raise InputError(
            f"{', '.join(one.label for one in trials)} were to share one training, but on {len(ref_logps)} training "
            f"prompts their gradients differ by {difference:.1e}: pass --train-all, and please report it"
        )
    return difference


def _folders(trial: Planned) -> tuple[Path, Path]:
    """The local folders of the token tables and the reference store, fetched if they lie elsewhere."""
    from mmpo_train.prepare import reference_folder

    tokens = trial.inputs.tokens
    fetch(tokens)
    reference = reference_folder(trial.inputs)
    fetch(reference)
    return tokens, reference


@lru_cache(maxsize=4)
def _validation_pairs(tokens: Path, reference: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reference log-probabilities and numbers of tokens of the validation pairs, both (N, 2)."""
    from mmpo_train.data.tokens import read_table
    from mmpo_train.model.reference import read_reference

    return read_reference(reference, "validation"), read_table(tokens, "validation").completion_tokens
