"""The data of a run, as MLflow lists them: name, digest and split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.redaction import masked

if TYPE_CHECKING:
    from eval_workers.tracking.store import Store

SPLITS = ("train", "validation")
_SPLIT_TAG = "mlflow.data.context"
_DIGEST_CHARACTERS, _SOURCE_CHARACTERS = 12, 2000
"""Of the fingerprint: MLflow takes digests of at most 36 characters."""


@dataclass(frozen=True)
class Dataset:
    """One split of the data."""

    name: str
    digest: str
    split: str
    source: str
    """Where it was read from."""
    rows: int | None = None
    """How many examples it has, where that is known."""


def datasets_of(sources: Sequence[str], fingerprint: str, rows: Mapping[str, int] | None = None) -> list[Dataset]:
    """The splits of preference data, whose digests begin like `data_fingerprint`; empty without a fingerprint."""
    name = "+".join(Path(source).name for source in sources)
    digest = fingerprint[:_DIGEST_CHARACTERS]
    where = ", ".join(sources)
    splits = SPLITS if digest else ()
    return [Dataset(name, f"{digest}-{split}", split, where, (rows or {}).get(split)) for split in splits]


def log_datasets(store: Store, run_id: str, datasets: Sequence[Dataset]) -> None:
    """Write what a run was made of. A repetition changes nothing: MLflow knows a run's data by name and digest."""
    from mlflow.entities import Dataset as Entity
    from mlflow.entities import DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Entity(
                name=masked(one.name)[:500],
                digest=one.digest,
                source_type="local",
                source=json.dumps({"uri": masked(one.source)[:_SOURCE_CHARACTERS]}),
                profile=json.dumps({"num_rows": one.rows}) if one.rows is not None else None,
            ),
            [InputTag(_SPLIT_TAG, one.split)],
        )
        for one in datasets
    ]
    if inputs:
        store.client.log_inputs(run_id, inputs)
