"""Training on preferences or on conversations, in one interface for callers that treat both alike: `materialise` makes
what a training reads, `run` and `train_here` train, `as_plain` and `from_plain` carry it to another machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mmpo_train.config import TrialConfig, from_dict, to_dict
from mmpo_train.sft.trial import SFTTrial, change
from mmpo_train.storage.mirror import name_of, place_of
from mmpo_train.trial.places import Places

if TYPE_CHECKING:
    from mmpo_train.data.tokens import CutCount
    from mmpo_train.events import Say
    from mmpo_train.model.reference import MapShards
    from mmpo_train.prepare import Inputs
    from mmpo_train.sft.prepare import SFTInputs
    from mmpo_train.sft.tokens import ChatCount
    from mmpo_train.trial.reports import Report
    from mmpo_train.trial.run import MakeEngine
    from mmpo_train.trial.segments import Ask

    AnyInputs = Inputs | SFTInputs
    Counts = Mapping[str, CutCount | ChatCount]
    """Split -> what tokenisation kept, cut and dropped."""
    Prepared = tuple[Places, Counts]

Trial = TrialConfig | SFTTrial


def materialise(inputs: AnyInputs, map_shards: MapShards, say: Say) -> Prepared:
    """Make what a training reads; returns its folders and what tokenisation cut."""
    from mmpo_train import prepare
    from mmpo_train.sft.prepare import SFTInputs, materialise_sft

    if isinstance(inputs, SFTInputs):
        return materialise_sft(inputs, say)
    return prepare.materialise(inputs, map_shards, say)


def count_tokens(inputs: AnyInputs, say: Say, *, keep: bool) -> Counts:
    """How much tokenisation cuts, as `prepare.count_tokens` returns it."""
    from mmpo_train import prepare
    from mmpo_train.sft.prepare import SFTInputs, count_chat_tokens

    if isinstance(inputs, SFTInputs):
        return count_chat_tokens(inputs, say, keep=keep)
    return prepare.count_tokens(inputs, say, keep=keep)


def run(trial: Trial, places: Places, make_engine: MakeEngine, *, ask: Ask | None = None, **how: Any) -> None:
    """Train to the end. `how`: send, say, safe, copied, watched, judged and told_to_go, as of `run_trial`."""
    from mmpo_train.sft.run import run_sft
    from mmpo_train.trial.run import run_trial

    if isinstance(trial, SFTTrial):
        run_sft(trial, places, make_engine, **how)
    else:
        run_trial(trial, places, make_engine, ask=ask, **how)


def train_here(trial: Trial, places: Places, report: Report, **more: Any) -> str:
    """Train in this process with the plain engine, and report on it as `report_on` does. `more`: arguments of `run`."""
    from mmpo_train.engines.torch_engine import TorchEngine
    from mmpo_train.trial.reports import report_on

    return report_on(partial(run, trial, places, TorchEngine, **more), report)


def as_plain(trial: Trial, places: Places) -> dict[str, Any]:
    """The trial and its folders as plain values for another machine, where `from_plain` reads them."""
    folders = {name: name_of(path) for name, path in vars(places).items()}
    return {"tuning": isinstance(trial, SFTTrial), "config": to_dict(trial), "places": folders}


def from_plain(plain: Mapping[str, Any]) -> tuple[Trial, Places]:
    """The checked trial and its folders on this machine."""
    config = plain["config"]
    trial = change(SFTTrial(), config) if plain["tuning"] else from_dict(config)
    return trial, Places(**{name: place_of(path) for name, path in plain["places"].items()})
