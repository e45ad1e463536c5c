"""The reference model's log-probabilities, computed once, kept in a columnar file and shared by all trials.

The store's name is the SHA-256 of everything that the numbers depend on: the model's weights, the token ids (and with
them tokenizer, template, data and truncation) and the precision.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from mmpo_train.data.tokens import SPLITS, TokenTable, read_table
from mmpo_train.errors import InputError
from mmpo_train.storage.manifest import verify, write_folder
from mmpo_train.storage.mirror import is_here, name_of, need, publish

# Size of one piece of parallel work: large enough to hide the loading of the model, small enough to spread.
PAIRS_PER_SHARD = 2048

UNRELATED = "unrelated"
"""The split that pairs each training prompt with a completion of another one."""

MapShards = Callable[[Callable[..., list[list[float]]], Sequence[tuple]], Iterable[list[list[float]]]]
"""Applies a function to each tuple of arguments, in any order, and returns the results in order."""


def reference_key(weights_sha256: str, tokens_folder: Path, precision: str) -> str:
    """Name of the store for these weights, these tokens and this precision."""
    manifest = (tokens_folder / "manifest.json").read_bytes()
    content = b"\n".join([b"reference-1", weights_sha256.encode(), manifest, precision.encode()])
    return hashlib.sha256(content).hexdigest()[:16]


def read_reference(folder: Path, split: str) -> np.ndarray:
    """Reference log-probabilities of one split, (N, K), fp32, in nats. Raises DamagedFolder."""
    import pyarrow.parquet as pq

    verify(folder)
    table = pq.read_table(folder / f"{split}.parquet")
    return np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.float32)


def ensure_reference(
    folder: Path,
    model_folder: Path,
    tokens_folder: Path,
    precision: str,
    tokens_per_pass: int,
    map_shards: MapShards,
    splits: Sequence[str] = SPLITS,
) -> bool:
    """Whether the store was built: it is, unless a complete one exists; a damaged one is built again. `map_shards` does
    the work: `in_process` in this process, or Ray tasks."""
    if is_here(folder):
        publish(folder)
        return False
    counts = {split: len(read_split(tokens_folder, split)) for split in splits}
    of_all = name_of(model_folder), name_of(tokens_folder), precision, tokens_per_pass
    work = [
        (*of_all, split, start, min(count, start + PAIRS_PER_SHARD))
        for split, count in counts.items()
        for start in range(0, count, PAIRS_PER_SHARD)
    ]
    scored = list(map_shards(score_shard, work))
    columns = {
        split: [row for shard, part in zip(work, scored, strict=True) if shard[4] == split for row in part]
        for split in counts
    }
    write_logps(folder, columns)
    return True


def read_split(tokens_folder: Path, split: str) -> TokenTable:
    """The token table of a split, or of UNRELATED."""
    if split == UNRELATED:
        return unrelated_completions(read_table(tokens_folder, "train"))
    return read_table(tokens_folder, split)


def unrelated_completions(table: TokenTable) -> TokenTable:
    """Each prompt with one completion of the next example that has another prompt, (N, 1).

    KTO's reference point is estimated from them (Ethayarajh et al. 2024, Section 4.1). Even rows get that example's
    chosen completion, odd ones its first rejected one. Raises InputError if all prompts are the same.
    """
    prompts = [prompt.tobytes() for prompt in table.prompts]
    if len(set(prompts)) < 2:
        raise InputError("kto estimates its reference point from other prompts, but all training prompts are the same")
    completions = []
    for row in range(len(table)):
        other = (row + 1) % len(table)
        while prompts[other] == prompts[row]:
            other = (other + 1) % len(table)
        completions.append((table.completions[other][row % 2],))
    return TokenTable(table.prompts, tuple(completions))


def in_process(function: Callable[..., list[list[float]]], work: Sequence[tuple]) -> Iterable[list[list[float]]]:
    """`map_shards` in this process."""
    return [function(*arguments) for arguments in work]


def score_shard(
    model_folder: str, tokens_folder: str, precision: str, tokens_per_pass: int, split: str, start: int, end: int
) -> list[list[float]]:
    """Log-probabilities of the pairs `start` to `end`, as plain lists; the work of one parallel worker."""
    from mmpo_train.devices import own_device
    from mmpo_train.model.layouts import FORWARD_TOKENS, best_layout
    from mmpo_train.model.logps import CompletionLogps
    from mmpo_train.model.policy import load_model
    from mmpo_train.model.scoring import model_forward, score_pairs

    device = own_device()
    model = load_model(need(model_folder), precision=precision, device=device)
    forward = model_forward(CompletionLogps(model), device, precision)
    table = read_split(need(tokens_folder), split)
    layout, tokens = best_layout(forward, table, precision), tokens_per_pass or FORWARD_TOKENS[device.type]
    return score_pairs(forward, table, range(start, end), tokens, layout=layout).tolist()


def write_logps(folder: Path, columns: dict[str, list[list[float]]]) -> None:
    """Write the log-probabilities of splits, fp32, in nats; `read_reference` reads them. With an object store they are
    uploaded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def fill(staging: Path) -> None:
        for split, rows in columns.items():
            values = np.asarray(rows, dtype=np.float32).reshape(len(rows), -1)
            names = ["chosen", *(f"rejected_{index}" for index in range(1, values.shape[1]))]
            table = pa.table({name: values[:, index] for index, name in enumerate(names)})
            pq.write_table(table, staging / f"{split}.parquet")

    write_folder(folder, fill)
    publish(folder)
