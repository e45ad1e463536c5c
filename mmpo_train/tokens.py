"""The tokenised examples of a trial: one columnar file for each split, made once and read by every worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpo_train.config import digest_of
from mmpo_train.manifest import DamagedFolder, verify, write_folder
from mmpo_train.templates import EncodedExample, Unusable, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmpo_train.preferences import PreferenceExample

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class TokenTable:
    """N prompts with K completions each, as token ids (int32)."""

    prompts: tuple[np.ndarray, ...]
    completions: tuple[tuple[np.ndarray, ...], ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def completion_tokens(self) -> np.ndarray:
        """Scored tokens, shape (N, K)."""
        return np.array([[len(ids) for ids in row] for row in self.completions], dtype=np.int64)

    @property
    def longest(self) -> np.ndarray:
        """Tokens of each example's longest prompt + completion, shape (N,)."""
        return np.array([len(p) + max(map(len, row)) for p, row in zip(self.prompts, self.completions, strict=True)])


@dataclass
class CutCount:
    """What tokenisation kept, cut and dropped in one split."""

    kept: int = 0
    prompts_cut: int = 0
    completions_cut: int = 0
    completions: int = 0
    tokens: int = 0
    """Prompt and completion tokens, the prompt counted once for each completion."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> "source row n"."""

    def lines(self, split: str) -> list[str]:
        """The count in words."""
        text = [
            f"{split}: {self.kept:,} pairs, {self.tokens:,} tokens; cut: {self.prompts_cut:,} prompts on the left, "
            f"{self.completions_cut:,} of {self.completions:,} completions on the right"
        ]
        for reason, rows in self.dropped.items():
            text.append(f"{split}: {len(rows):,} dropped, {reason} ({', '.join(rows[:5])}{', …' * (len(rows) > 5)})")
        return text


def tokenise(
    examples: Sequence[PreferenceExample],
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    max_completion_tokens: int,
) -> tuple[list[EncodedExample], CutCount]:
    """The usable examples as token ids, with the count of what was cut and dropped."""
    encoded, count = [], CutCount()
    for example in examples:
        try:
            one = encode(example, tokenizer, max_prompt_tokens, max_completion_tokens)
        except Unusable as reason:
            count.dropped.setdefault(str(reason), []).append(f"{example.source} row {example.row}")
            continue
        encoded.append(one)
        count.kept += 1
        count.prompts_cut += one.prompt_cut > 0
        count.completions_cut += sum(cut > 0 for cut in one.completion_cuts)
        count.completions += len(one.completions)
        count.tokens += sum(len(one.prompt) + len(ids) for ids in one.completions)
    return encoded, count


def write_tables(folder: Path, splits: dict[str, list[EncodedExample]], counts: dict[str, CutCount]) -> None:
    """`train.parquet`, `validation.parquet` and `counts.json`, written atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def fill(staging: Path) -> None:
        for split, rows in splits.items():
            columns = {
                "prompt": pa.array([row.prompt for row in rows], pa.list_(pa.int32())),
                "completions": pa.array([list(row.completions) for row in rows], pa.list_(pa.list_(pa.int32()))),
            }
            pq.write_table(pa.table(columns), staging / f"{split}.parquet")
        (staging / "counts.json").write_text(json.dumps({name: vars(count) for name, count in counts.items()}))

    write_folder(folder, fill)


def read_table(folder: Path, split: str) -> TokenTable:
    """One split of what `write_tables` wrote. Raises DamagedFolder when it is not as written."""
    import pyarrow.parquet as pq

    verify(folder)
    table = pq.read_table(folder / f"{split}.parquet").combine_chunks()
    prompts = _rows(table["prompt"].combine_chunks())
    groups = table["completions"].combine_chunks()
    flat = _rows(groups.values)
    starts = groups.offsets.to_numpy()
    completions = [tuple(flat[start:end]) for start, end in zip(starts[:-1], starts[1:], strict=True)]
    return TokenTable(tuple(prompts), tuple(completions))


def _rows(lists: Any) -> list[np.ndarray]:
    """An arrow list array as one numpy view for each row."""
    starts, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    return [values[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]


def read_counts(folder: Path) -> dict[str, CutCount] | None:
    """The counts of a whole folder, or None where there is none or it is damaged."""
    try:
        verify(folder)
    except DamagedFolder:
        return None
    return {name: CutCount(**count) for name, count in json.loads((folder / "counts.json").read_text()).items()}


def tables_key(
    data_fingerprint: str, model_fingerprint: str, max_prompt_tokens: int, max_completion_tokens: int
) -> str:
    """Name of the folder for this data under this tokenizer, template and truncation."""
    return digest_of(["tokens-1", data_fingerprint, model_fingerprint, max_prompt_tokens, max_completion_tokens])
