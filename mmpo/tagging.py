"""What `mmpo stop`, `go`, `clone` and `extend` have in common: they write the tag that a person may write in MLflow."""

from dataclasses import dataclass
from typing import Annotated

from mmpo_train.errors import InputError
from mmpo_train.options import STORAGE, Positional, Stored


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


def ask(options: TagOptions, text: str) -> None:
    """Write the tag on the trial's run and say what will happen. Raises InputError if it cannot be done."""
    from eval_workers.tracking.addresses import tracking_uri
    from mmpo_train.redaction import masked
    from mmpo_train.terminal import console
    from sweeps.ledger.ledger import connect_to_read
    from sweeps.ledger.runs import trial_called
    from sweeps.ledger.tags import DO
    from sweeps.live.orders import check_order

    ledger = connect_to_read(options.tracking_uri or None, options.folder)
    if ledger is None:
        where = masked(tracking_uri(options.tracking_uri)) or options.folder / "mlflow.db"
        raise InputError(f"there is no ledger at {where}: give the --storage or --tracking-uri of the sweep")
    try:
        with ledger.store.reading():
            run = trial_called(ledger.store, options.run)
        said = check_order(text, ledger.read_trial(run.info.run_id))
        with ledger.store.reading():
            ledger.store.log_tags(run.info.run_id, {DO: text})
        console.print(f"{run.info.run_name}: {said}", highlight=False, markup=False, soft_wrap=True)
    finally:
        ledger.close()
