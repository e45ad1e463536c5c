"""The tokenised examples of a trial: one Parquet file for each split, made once and read by every worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmpo_train.config import digest_of
from mmpo_train.data.rendering import Tokenizer, Unusable
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.templates import EncodedExample, Encoding, encode
from mmpo_train.events import Say
from mmpo_train.storage.manifest import DamagedFolder, lock, verify, write_folder
from mmpo_train.storage.mirror import fetch, publish

Count = TypeVar("Count")
"""What tokenisation kept, cut and dropped in one split: `CutCount`, or `ChatCount` of conversations."""
SPLITS = ("train", "validation")
NO_NOISE = "no two tokens of the chosen completion can be swapped for a new one"


@dataclass(frozen=True)
class TokenTable:
    """N prompts with their completions, the chosen one first, as token ids (int32).

    Prompts may have different numbers of completions. Arrays over all of them have K columns, the largest number, and
    zeros for missing completions.
    """

    prompts: tuple[np.ndarray, ...]
    completions: tuple[tuple[np.ndarray, ...], ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def completion_tokens(self) -> np.ndarray:
        """Scored tokens, shape (N, K); 0 for a missing completion."""
        counts = np.zeros((len(self), self.most_completions), dtype=np.int64)
        for row, completions in zip(counts, self.completions, strict=True):
            row[: len(completions)] = [len(ids) for ids in completions]
        return counts

    @property
    def most_completions(self) -> int:
        """K, the largest number of completions."""
        return max(map(len, self.completions), default=0)

    @property
    def together(self) -> np.ndarray:
        """Tokens of each prompt with all its completions, shape (N,)."""
        return np.array([len(p) + sum(map(len, row)) for p, row in zip(self.prompts, self.completions, strict=True)])

    def take(self, pairs: np.ndarray, columns: np.ndarray) -> TokenTable:
        """Some prompts with some of their completions: `columns` (len(pairs), M), -1 for none."""
        return TokenTable(
            tuple(self.prompts[pair] for pair in pairs),
            tuple(
                tuple(self.completions[pair][column] for column in row if column >= 0)
                for pair, row in zip(pairs, columns, strict=True)
            ),
        )

    @property
    def longest(self) -> np.ndarray:
        """Tokens of each example's longest prompt + completion, shape (N,)."""
        return np.array([len(p) + max(map(len, row)) for p, row in zip(self.prompts, self.completions, strict=True)])


@dataclass
class CutCount:
    """Numbers of examples and tokens that tokenisation kept, cut and dropped in one split."""

    kept: int = 0
    prompts_cut: int = 0
    completions_cut: int = 0
    completions: int = 0
    repeated: int = 0
    """Completions left out because after the cut they equal another one of their prompt."""
    without_noise: int = 0
    """Prompts without a noise candidate, since no swap of two tokens gives a new completion."""
    tokens: int = 0
    """Prompt and completion tokens, the prompt counted once for each completion."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> "source row n"."""

    def lines(self, split: str) -> list[str]:
        """The count in words."""
        text = [
            f"{split}: {self.kept:,} prompts, {self.tokens:,} tokens; cut: {self.prompts_cut:,} prompts on the left, "
            f"{self.completions_cut:,} of {self.completions:,} completions on the right"
        ]
        if self.repeated:
            text.append(f"{split}: {self.repeated:,} completions left out, the same tokens as another of their prompt")
        if self.without_noise:
            text.append(f"{split}: {self.without_noise:,} prompts without a noise candidate, {NO_NOISE}")
        for reason, rows in self.dropped.items():
            text.append(f"{split}: {len(rows):,} dropped, {reason} ({', '.join(rows[:5])}{', …' * (len(rows) > 5)})")
        return text


def tokenise(
    examples: Iterable[PreferenceExample], tokenizer: Tokenizer, how: Encoding
) -> tuple[list[EncodedExample], CutCount]:
    """The usable examples as token ids, and the counts of what was cut and dropped.

    The noise candidate `added` appends a negative to each prompt, the chosen completion with two tokens swapped (MC-PO
    paper, Section 5.4); `only` makes it the one negative.
    """
    encoded, count = [], CutCount()
    for example in examples:
        try:
            one = encode(example, tokenizer, how)
            if how.noise_candidate != "none":
                noisy = _with_noise(one, how.noise_candidate)
                count.without_noise += noisy is one
                one = noisy
        except Unusable as reason:
            count.dropped.setdefault(str(reason), []).append(f"{example.source} row {example.row}")
            continue
        encoded.append(one)
        count.kept += 1
        count.prompts_cut += one.prompt_cut > 0
        count.completions_cut += sum(cut > 0 for cut in one.completion_cuts)
        count.completions += len(one.completions)
        count.repeated += one.repeated
        count.tokens += sum(len(one.prompt) + len(ids) for ids in one.completions)
    return encoded, count


def _with_noise(one: EncodedExample, noise_candidate: str) -> EncodedExample:
    """The example with a noise candidate. If there is none: the same example for `added`, Unusable for `only`."""
    noise = _swapped(one)
    if noise is None:
        if noise_candidate == "only":
            raise Unusable(NO_NOISE)
        return one
    negatives = len(one.completions) if noise_candidate == "added" else 1
    return replace(
        one,
        completions=(*one.completions[:negatives], noise),
        completion_cuts=(*one.completion_cuts[:negatives], one.completion_cuts[0]),
    )


def _swapped(one: EncodedExample) -> np.ndarray | None:
    """The chosen completion with two different tokens swapped, unlike all other candidates; None if there is none.
    Positions are drawn by the content of prompt and chosen completion. A closing token keeps its place."""
    chosen = one.completions[0]
    digest = hashlib.sha256(one.prompt.astype("<i4").tobytes() + b"|" + chosen.astype("<i4").tobytes()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    movable = len(chosen) - (one.completion_cuts[0] == 0)
    if len(np.unique(chosen[:movable])) < 2:
        return None
    for first in random.permutation(movable):
        for second in random.permutation(movable):
            if chosen[first] != chosen[second]:
                noise = chosen.copy()
                noise[[first, second]] = chosen[[second, first]]
                if not any(np.array_equal(noise, other) for other in one.completions):
                    return noise
    return None


def write_tables(folder: Path, splits: dict[str, list[EncodedExample]], counts: dict[str, CutCount]) -> None:
    """Write `train.parquet`, `validation.parquet` and `counts.json` atomically. A row has prompt and completions as
    token ids and the question as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def fill(staging: Path) -> None:
        for split, rows in splits.items():
            columns = {
                "prompt": pa.array([row.prompt for row in rows], pa.list_(pa.int32())),
                "completions": pa.array([list(row.completions) for row in rows], pa.list_(pa.list_(pa.int32()))),
                "question": pa.array([row.question for row in rows], pa.string()),
            }
            pq.write_table(pa.table(columns), staging / f"{split}.parquet")
        write_counts(staging, counts)

    write_folder(folder, fill)


def read_table(folder: Path, split: str) -> TokenTable:
    """One split of the tables. Raises DamagedFolder if files have changed."""
    import pyarrow.parquet as pq

    verify(folder)
    return token_rows(pq.read_table(folder / f"{split}.parquet"))


def token_rows(columns: Any) -> TokenTable:
    """The table of an Arrow table with the columns prompt and completions, as numpy views."""
    columns = columns.combine_chunks()
    prompts = _rows(columns["prompt"].combine_chunks())
    groups = columns["completions"].combine_chunks()
    flat = _rows(groups.values)
    starts = groups.offsets.to_numpy()
    completions = [tuple(flat[start:end]) for start, end in zip(starts[:-1], starts[1:], strict=True)]
    return TokenTable(tuple(prompts), tuple(completions))


def _rows(lists: Any) -> list[np.ndarray]:
    """One numpy view for each row of an Arrow list array."""
    starts, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    return [values[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True)]


def read_questions(folder: Path, split: str) -> list[str]:
    """The prompts of one split as text, in the order of its table. Raises DamagedFolder like `read_table`."""
    import pyarrow.parquet as pq

    verify(folder)
    return pq.read_table(folder / f"{split}.parquet", columns=["question"])["question"].to_pylist()


def write_counts(folder: Path, counts: Mapping[str, Any]) -> None:
    """Write `counts.json`, which `read_counts` reads: dataclasses by split."""
    (folder / "counts.json").write_text(json.dumps({name: vars(count) for name, count in counts.items()}))


def read_counts(folder: Path, kind: Callable[..., Count]) -> dict[str, Count] | None:
    """The counts of a folder; None if it does not exist or is damaged."""
    try:
        verify(folder)
    except DamagedFolder:
        return None
    return {name: kind(**count) for name, count in json.loads((folder / "counts.json").read_text()).items()}


def ensure_tokens(
    folder: Path, kind: Callable[..., Count], tokenise: Callable[[], dict[str, Count]], say: Say
) -> dict[str, Count]:
    """The counts of a folder of tokens, which `tokenise` makes where it is missing or damaged."""
    with lock(folder):
        fetch(folder)
        counts = read_counts(folder, kind)
        if counts is None:
            say("tokenising", 0.0)
            counts = tokenise()
        publish(folder)
    return counts


def tables_key(data_fingerprint: str, model_fingerprint: str, how: Encoding) -> str:
    """Name of the folder for this data with this tokenizer, template, truncation and noise."""
    # Later fields: tables without them keep their names.
    later = [value for value in how[3:] if value not in ("separate", "whole")]
    return digest_of(["tokens-2", data_fingerprint, model_fingerprint, *how[:3], *later])
