"""What a person may ask of a trial by a tag of its run in MLflow: to stop, to go on, to be cloned or extended."""

from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

from mmpo_train.errors import InputError
from mmpo_train.options import STORAGE, Positional, Stored
from mmpo_train.terminal import run_program
from sweeps.ledger.tags import CLONE, EXTEND, GO, STOP


@dataclass(frozen=True, kw_only=True)
class TagOptions(Stored):
    """Ask something of a trial."""

    run: Annotated[str, Positional]
    """The trial: the id of its run in MLflow, or its digest, or how one of them begins."""
    storage: str = STORAGE
    """Storage of the sweep: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH. Default: the value of MMPO_STORAGE, or
    runs."""
    tracking_uri: str = ""
    """MLflow server or database. Default: the value of MLFLOW_TRACKING_URI, or mlflow.db in the storage."""


@dataclass(frozen=True, kw_only=True)
class StopOptions(TagOptions):
    """Stop a running trial. It writes a state to go on from."""


@dataclass(frozen=True, kw_only=True)
class GoOptions(TagOptions):
    """Go on with a trial that a person has stopped."""


@dataclass(frozen=True, kw_only=True)
class CloneOptions(TagOptions):
    """Clone a running trial: another one starts from its state, with other settings."""

    changes: Annotated[tuple[str, ...], Positional]
    """What changes, as FIELD=VALUE."""


@dataclass(frozen=True, kw_only=True)
class ExtendOptions(TagOptions):
    """Extend a running trial: a clone starts from its state and trains to more epochs."""

    changes: Annotated[tuple[str, ...], Positional]
    """The epochs to train to, as epochs=N."""


def stop(arguments: list[str] | None = None) -> None:
    """Stop a running trial; its state is kept, and nothing but `mmpo go` goes on with it: `mmpo stop RUN`."""
    run_program(StopOptions, lambda options: ask(options, STOP), "mmpo stop", arguments)


def go(arguments: list[str] | None = None) -> None:
    """Go on with a trial that a person has stopped: `mmpo go RUN`."""
    run_program(GoOptions, lambda options: ask(options, GO), "mmpo go", arguments)


def clone(arguments: list[str] | None = None) -> None:
    """Clone a running trial with other settings, from its present state: `mmpo clone RUN learning_rate=3e-4`."""
    run_program(CloneOptions, lambda options: ask(options, CLONE, *options.changes), "mmpo clone", arguments)


def extend(arguments: list[str] | None = None) -> None:
    """Train on to more epochs in a clone of a running trial: `mmpo extend RUN epochs=5`."""
    run_program(ExtendOptions, lambda options: ask(options, EXTEND, *options.changes), "mmpo extend", arguments)


def ask(options: TagOptions, *words: str) -> None:
    """Write the tag on the trial's run and say what will happen. Raises InputError if it cannot be done."""
    from eval_workers.tracking.addresses import tracking_uri
    from mmpo_train.redaction import masked
    from mmpo_train.terminal import print_text
    from sweeps.ledger.ledger import connect_to_read
    from sweeps.ledger.runs import trial_called
    from sweeps.ledger.tags import DO
    from sweeps.live.orders import check_order

    text, ledger = " ".join(words), connect_to_read(options.tracking_uri, options.folder)
    if ledger is None:
        where = masked(tracking_uri(options.tracking_uri)) or options.folder / "mlflow.db"
        raise InputError(f"there is no ledger at {where}: give the --storage or --tracking-uri of the sweep")
    with closing(ledger):
        with ledger.store.reading():
            run = trial_called(ledger.store, options.run)
        said = check_order(text, ledger.read_trial(run.info.run_id))
        with ledger.store.reading():
            ledger.store.log_tags(run.info.run_id, {DO: text})
        print_text(f"{run.info.run_name}: {said}")
