"""Which of an objective's fields act on the gradient, and which on the score alone.

Trials that differ in inert fields alone are one training: their models are the same, only what is computed from the
log-probabilities afterwards differs. `trial/gradient_check.py` checks the declaration on a stage's own data.
Standard library only, so that a plan needs no torch.
"""

from collections.abc import Mapping
from typing import Any

from mmpo_train.config import OBJECTIVE_FIELDS, PLUGGED, TrialConfig, digest_of, identity

SCORE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "mmpo": (
        *("beta", "r_eps", "pairs_per_group"),
        *("in_batch_normalised", "length_normalised", "reference_length_normalised"),
    ),
    "simpo": ("length_normalised",),
}
"""Objective -> fields that decide which of two completions has the higher score, whatever the model. Other objectives
compare log-ratios or log-probabilities, which a positive beta does not reorder."""


def inert_fields(config: TrialConfig, completions: int) -> frozenset[str]:
    """The fields of the config's objective that do not act on the gradient.

    `completions` is the largest number that a training prompt has. MMPO's two logarithms cancel for pairs (Listing 1):
    the loss is -s_w, in which the reward is a constant, so that beta, r_eps and the groups act on the score alone. They
    do act without the auxiliary term and with more completions than two; beta acts as the entropy's weight. RNCE and
    MC-PO use all candidates if there are no more than they choose.
    """
    if config.objective == "mmpo" and config.auxiliary and completions <= 2:
        rewards = {"r_eps", "pairs_per_group", "in_batch_normalised", "reference_length_normalised"}
        return frozenset(rewards if config.entropy else rewards | {"beta"})
    nothing_to_choose = completions <= config.negatives + 1 and not config.chosen_is_candidate
    if config.objective in ("rnce", "mc_po") and nothing_to_choose:
        return frozenset({"negatives", "negative_choice"} & set(OBJECTIVE_FIELDS[config.objective]))
    return frozenset()


def training_key(config: TrialConfig, completions: int) -> str:
    """The name of the training: trials of one key end with the same model. Not the digest, which names the trial."""
    inert = inert_fields(config, completions)
    return digest_of({name: value for name, value in identity(config).items() if name not in inert})


def score_of(config: TrialConfig) -> dict[str, Any]:
    """What reward accuracy compares: trials whose values differ are judged by different scores."""
    plugged = OBJECTIVE_FIELDS[config.objective] if ("objective", config.objective) in PLUGGED else ()
    used, names = identity(config), SCORE_FIELDS.get(config.objective, plugged)  # of a plug-in nothing is known
    return {"objective": config.objective, **{name: used[name] for name in names if name in used}}
