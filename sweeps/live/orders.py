"""What the tag `do` of a run asks for: `stop`, `go`, `clone learning_rate=3e-4`, `extend epochs=5`."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmpo_train.config import OBJECTIVE_FIELDS, ONLINE_OBJECTIVES, TrialConfig, from_dict, nearest, replace
from mmpo_train.errors import InputError
from mmpo_train.trial.orders import BY_PERSON
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.tags import CLONE, EXTEND, GO, STOP
from sweeps.plan.order import STAGE_0

_KNOWN = f"{STOP}, {GO}, {CLONE} FIELD=VALUE or {EXTEND} epochs=N"
_OF_THE_OPTIMISER = ("learning_rate", "warmup_share", "weight_decay", "max_gradient_norm", "epochs")


@dataclass(frozen=True)
class Order:
    """What a person asks of a trial."""

    what: str
    """STOP, GO, CLONE or EXTEND."""
    changes: Mapping[str, str]
    """Field -> its new value as text; of a clone at least one, of an extension `epochs` alone."""


def parse_order(text: str) -> Order:
    """The order that a tag's text is. Raises InputError for any other text."""
    what, *words = text.split() or [""]
    changes = {name: value for name, equals, value in (word.partition("=") for word in words) if equals and value}
    fits = {STOP: not words, GO: not words, CLONE: bool(changes), EXTEND: set(changes) == {"epochs"}}
    if not fits.get(what) or len(changes) < len(words):
        raise InputError(f"{text!r} cannot be done: ask for {_KNOWN}")
    return Order(what, changes)


def clone_of(config: TrialConfig, order: Order, step: int) -> TrialConfig:
    """The trial that starts from the state of another after a step. Raises InputError if the order makes no sense."""
    if config.objective in ONLINE_OBJECTIVES:
        raise InputError(f"a trial of {config.objective} cannot be cloned: its answers are its own policy's")
    of_the_loss = [name for name in OBJECTIVE_FIELDS[config.objective] if isinstance(getattr(config, name), float)]
    allowed = [*_OF_THE_OPTIMISER, *of_the_loss]
    for name in order.changes:
        if name not in allowed:
            close = nearest(name, allowed) if name not in vars(config) else ""
            can = f"; those that can are {', '.join(allowed)}" if not close.startswith("; did") else close
            raise InputError(f"{name} cannot change in the middle of a trial{can}")
    clone = replace(config, {**order.changes, "cloned_from": f"{config.digest}@{step}"})
    for name in order.changes:
        if getattr(clone, name) == getattr(config, name):
            raise InputError(f"{name} is {getattr(config, name)} already")
    if clone.epochs < config.epochs:
        raise InputError(f"a trial of {config.epochs} epochs can be extended, but not cut to {clone.epochs}")
    return clone


def changes_of(config: TrialConfig, order: Order) -> str:
    """What a clone of the trial changes: `learning_rate 0.001 -> 0.0003`. Raises InputError as `clone_of` does."""
    clone = clone_of(config, order, 1)
    return ", ".join(f"{name} {getattr(config, name)} -> {getattr(clone, name)}" for name in order.changes)


def check_order(text: str, record: TrialRecord) -> str:
    """What will happen when the tag is set on the trial's run. Raises InputError if nothing can."""
    order = parse_order(text)
    if record.stage == STAGE_0:
        raise InputError(f"{record.name} is an instruction tuning: Ctrl-C stops its command, which goes on if rerun")
    if order.what == GO:
        if record.status != "stopped" or not record.reason.startswith(BY_PERSON):
            raise InputError(f"{record.name} cannot go on: no person has stopped it, it is {record.status}")
        return "goes on at once if the command that it belongs to still runs, otherwise with the same command"
    if record.status != "running":
        raise InputError(f"{record.name} is not running: it is {record.status}")
    then = "and stops"
    if order.what != STOP:
        then = f"from which another trial starts with {changes_of(from_dict(record.config), order)}"
    return f"writes a state after its present step, {then}; its tag `done` says so within 10 seconds"
