"""Batched online training: equal segments of steps, each on ranked answers of the policy with which it starts.

The MC-PO paper, Section 3.2 and Appendix B.1. The caller provides the answers and their ranking through `Ask`.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpo_train.config import TrialConfig
from mmpo_train.data.tokens import TokenTable, token_rows
from mmpo_train.model.batches import consecutive, epoch_order
from mmpo_train.model.scoring import ScoredTable
from mmpo_train.storage.manifest import verify, write_folder
from mmpo_train.storage.mirror import name_of

Ask = Callable[[dict[str, Any]], Callable[[], bool]]
"""Requests a segment (plain values, see `segment_request`), and returns a function that says whether its folder is
ready. That function raises the error if the segment could not be made."""


@dataclass(frozen=True)
class Segment:
    """The training data of one phase of an online trial."""

    scored: ScoredTable
    prompts: np.ndarray
    """(N,) positions of the prompts in the training data, ascending, without dropped prompts."""
    metrics: dict[str, float]
    """Metrics of the prompts and answers."""

    def rows_of(self, prompts: np.ndarray) -> np.ndarray:
        """Rows in `scored` of those prompts that the segment has, in the order given."""
        if not len(self.prompts):
            return np.zeros(0, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.prompts, prompts), len(self.prompts) - 1)
        return places[self.prompts[places] == prompts]


def segment_of(step: int, total_steps: int, segments: int) -> int:
    """The segment (from 0) of a step (from 1)."""
    return (step - 1) * segments // total_steps


def first_step(segment: int, total_steps: int, segments: int) -> int:
    """The first step (from 1) of a segment."""
    return -(-segment * total_steps // segments) + 1


def prompts_of_segment(config: TrialConfig, prompts: int, segment: int) -> np.ndarray:
    """Positions, ascending, of the prompts that the segment's steps use; only these need answers."""
    steps_per_epoch = math.ceil(prompts / config.pairs_per_step)
    total_steps = steps_per_epoch * config.epochs
    seen = [np.zeros(0, dtype=np.int64)]
    for epoch in range(1, config.epochs + 1):
        steps = consecutive(epoch_order(prompts, config.seed, epoch), config.pairs_per_step)
        for number, some in enumerate(steps, (epoch - 1) * steps_per_epoch + 1):
            if segment_of(number, total_steps, config.segments) == segment:
                seen.append(some)
    return np.unique(np.concatenate(seen))


def segment_request(
    config: dict[str, Any], segment: int, prompts: np.ndarray, *, policy: Path, model: Path, tokens: Path, target: Path
) -> dict[str, Any]:
    """The request for a segment: folders of policy, starting model and token tables, positions of the prompts in the
    train table, and the folder to write with `write_segment`. Folders are named by `mirror.name_of`."""
    folders = {"policy": policy, "model": model, "tokens": tokens, "target": target}
    paths = {name: name_of(folder) for name, folder in folders.items()}
    return {"config": config, "segment": segment, "prompts": prompts.tolist(), **paths}


def write_segment(
    folder: Path, prompts: Sequence[int], table: TokenTable, ref_logps: np.ndarray, metrics: dict[str, float]
) -> None:
    """Write `segment.parquet` and `metrics.json`, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def fill(staging: Path) -> None:
        counts = [len(row) for row in table.completions]
        columns = {
            "place": pa.array(prompts, pa.int64()),
            "prompt": pa.array(list(table.prompts), pa.list_(pa.int32())),
            "completions": pa.array([list(row) for row in table.completions], pa.list_(pa.list_(pa.int32()))),
            "ref_logps": pa.array(
                [row[:count] for row, count in zip(ref_logps, counts, strict=True)], pa.list_(pa.float32())
            ),
        }
        pq.write_table(pa.table(columns), staging / "segment.parquet")
        (staging / "metrics.json").write_text(json.dumps(metrics))

    write_folder(folder, fill)


def read_segment(folder: Path) -> Segment:
    """The segment that `write_segment` wrote. Raises DamagedFolder."""
    import pyarrow.parquet as pq

    verify(folder)
    columns = pq.read_table(folder / "segment.parquet").combine_chunks()
    table = token_rows(columns)
    logps = np.zeros((len(table), table.most_completions), dtype=np.float32)
    for row, values in zip(logps, columns["ref_logps"].to_pylist(), strict=True):
        row[: len(values)] = values
    metrics = json.loads((folder / "metrics.json").read_text())
    return Segment(ScoredTable(table, logps), columns["place"].to_numpy(), metrics)
