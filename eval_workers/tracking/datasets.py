"""The data of a run, as MLflow lists them: name, digest and split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.redaction import masked

if TYPE_CHECKING:
    from eval_workers.tracking.store import Store

# Of the fingerprint and of the places: MLflow takes digests of at most 36 characters.
_DIGEST_CHARACTERS, _SOURCE_CHARACTERS = 12, 2000


def log_datasets(
    store: Store, run_id: str, sources: Sequence[str], fingerprint: str, rows: Mapping[str, int] | None = None
) -> None:
    """Write the splits of preference data that a run was made of; nothing without a fingerprint.

    Digests begin like `data_fingerprint`. `rows`: split -> examples, where that is known. A repetition changes nothing:
    MLflow knows a run's data by name and digest.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if not fingerprint:
        return
    name = masked("+".join(Path(source).name for source in sources))[:500]
    where = json.dumps({"uri": masked(", ".join(sources))[:_SOURCE_CHARACTERS]})
    inputs = []
    for split in ("train", "validation"):
        digest = f"{fingerprint[:_DIGEST_CHARACTERS]}-{split}"
        profile = json.dumps({"num_rows": rows[split]}) if rows else None
        data = Dataset(name=name, digest=digest, source_type="local", source=where, profile=profile)
        inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", split)]))
    store.client.log_inputs(run_id, inputs)
