"""The name of a search: one for all its stages and objectives, another where settings, data, seed or length differ.

Later stages take a winner from the search with their own settings, a report is of one search, and so is a saved view.
"""

from collections.abc import Mapping
from typing import Any

from mmpo_train.config import OBJECTIVE_FIELDS, TrialConfig, digest_of, identity, to_dict
from mmpo_train.recipes import objective_settings
from mmpo_train.redaction import masked_values
from sweeps.plan.order import TUNED

_OWN = frozenset(name for names in OBJECTIVE_FIELDS.values() for name in names)


def telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a trial's identity, or of a stage's record of it, that tell one search from another: no stage tunes
    them, and they differ from the objective's defaults. A field that older records lack had its default."""
    usual = to_dict(TrialConfig()) | objective_settings(settings.get("objective", ""))
    plain = masked_values({name: list(one) if isinstance(one, tuple) else one for name, one in settings.items()})
    return {name: value for name, value in plain.items() if name not in TUNED and value != usual.get(name)} | {
        "epochs": plain.get("epochs", usual["epochs"])
    }


def search_key(settings: Mapping[str, Any]) -> str:
    """`3f2a91c4`, or `3f2a91c4-7be1` where fields of the objective's own are not at their defaults.

    `settings` is the identity of a trial of a tuning stage. Objectives of one search have the same first part.
    """
    told = telling(settings)
    shared = {name: value for name, value in told.items() if name not in _OWN and name != "objective"}
    own = {name: value for name, value in told.items() if name in _OWN}
    return digest_of(shared)[:8] + (f"-{digest_of(own)[:4]}" if own else "")


def key_of(config: TrialConfig, epochs: int | None = None) -> str:
    """The key of the search that a trial belongs to; `epochs` are those of the search where the trial has others."""
    return search_key(identity(config) | ({} if epochs is None else {"epochs": epochs}))


def is_part(key: str, search: str) -> bool:
    """Whether stages of `key` stand in a report of `search`: its own, and those of objectives without its fields."""
    return key in (search, search.partition("-")[0])
