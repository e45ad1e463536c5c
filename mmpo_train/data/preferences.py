"""Preference data of a trial: sources in, train and validation examples out, with an audit of the rest.

    load_preferences(["HuggingFaceH4/ultrafeedback_binarized:train_prefs:test_prefs", "data/pairs.json"])

`preference_rows` knows the formats of a row, `preference_files` those of a file, `preference_sources` the
folders, hub datasets and splits.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mmpo_train.data.files import Part
from mmpo_train.data.rows import REASONS, Message, PreferenceExample, RowProblem, Turns, parse_row
from mmpo_train.data.sources import Source, open_source
from mmpo_train.errors import InputError

__all__ = [
    "Audit",
    "Message",
    "PartAudit",
    "PreferenceData",
    "PreferenceExample",
    "as_pairs",
    "load_preferences",
]

LISTED_ROWS = 5
EXPECTED = (
    "expected prompt + chosen + rejected (text or messages), conversations + chosen + rejected, "
    "or prompt + answers with ranks"
)


@dataclass
class PartAudit:
    """What became of the rows of one file or table."""

    source: str
    split: str
    rows: int = 0
    kept: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> 1-based rows."""


@dataclass
class Audit:
    """What was read, kept and dropped."""

    parts: list[PartAudit] = field(default_factory=list)
    train: int = 0
    """Examples to train on."""
    validation: int = 0
    """Examples to validate on."""
    held_out: int = 0
    """Of those, examples held out of train splits because their source has no validation split."""
    shared_prompts: int = 0
    """Validation prompts that also occur in train: contamination."""
    answers_left_out: int = 0
    """Ranked answers that became no completion: tied with the best, ranked too high, or not among the worst."""
    completions_per_prompt: dict[int, int] = field(default_factory=dict)
    """K -> examples to train on; those to validate on have two."""

    def lines(self) -> list[str]:
        """The audit for people, a line a fact."""
        lines = []
        for part in self.parts:
            count = part.rows - part.kept
            lines.append(f"{part.source} ({part.split}): {part.kept} of {part.rows} rows kept, {count} dropped")
            for reason, rows in part.dropped.items():
                lines.append(f"  dropped {len(rows)}: {reason} ({_listed('row', rows)})")
        sizes = ", ".join(f"{count} of {k}" for k, count in sorted(self.completions_per_prompt.items()))
        held_out = f" ({self.held_out} held out by prompt)" if self.held_out else ""
        lines.append(
            f"train {self.train}, validation {self.validation}{held_out}; completions per train prompt: {sizes}"
        )
        if self.answers_left_out:
            lines.append(f"{self.answers_left_out} ranked answers left out")
        if self.shared_prompts:
            lines.append(f"warning: {self.shared_prompts} validation prompts also in train")
        return lines

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PreferenceData:
    train: tuple[PreferenceExample, ...]
    validation: tuple[PreferenceExample, ...]
    fingerprint: str
    """SHA-256 over split, prompts and completions in order; where they were read from does not count."""
    audit: Audit


def load_preferences(
    sources: Sequence[str],
    *,
    strict: bool = False,
    drop_bad_rows: bool = False,
    seed: int = 42,
    validation_share: float = 0.1,
    negatives_from_rank: int = 3,
    worst_negatives: int = 0,
) -> PreferenceData:
    """Train and validation examples of a mixture: the sources' parts one after the other, in the order given.

    Train examples have all completions of their prompt, validation examples two (`as_pairs`): all trials are
    validated on the same pairs. Of ranked answers those above `negatives_from_rank` are left out (`parse_row`);
    train examples keep the `worst_negatives` lowest in rank (ties: the later in the row; 0: all).

    A source is `PATH|HUB-ID[:TRAIN_SPLIT[:VALIDATION_SPLIT]]`. One without a validation split gives up
    `validation_share` of its prompts (0: none), chosen by a hash of prompt and seed.

    Refused with InputError: a source that cannot be read; malformed rows; bad rows of local files (a hub
    dataset cannot be mended, there they are dropped). Unusable rows are dropped and counted. `drop_bad_rows`
    drops them all, `strict` refuses them all. Reasons and their severity: `preference_rows.REASONS`.
    """
    if isinstance(sources, str):
        raise TypeError(f"expected a sequence of sources, found the text {sources!r}")
    _check_options(sources, strict, drop_bad_rows, validation_share, negatives_from_rank, worst_negatives)
    audit = Audit()
    sides = []
    for given in sources:
        source = open_source(given)
        splits = [source.train] if source.validation is None else [source.train, source.validation]
        sides.append((source, _read_splits(source, splits, strict, drop_bad_rows, negatives_from_rank, audit)))

    # One set for all sources: a prompt that two of them share falls on one side in both.
    held_out: set[Turns] = set()
    for source, examples in sides:
        if source.validation is None:
            held_out |= _held_out_prompts(examples[source.train], seed, validation_share)
    train: list[PreferenceExample] = []
    validation: list[PreferenceExample] = []
    for source, examples in sides:
        if source.validation is not None:
            train += examples[source.train]
            validation += examples[source.validation]
        else:
            for example in examples[source.train]:
                (validation if example.prompt in held_out else train).append(example)
                audit.held_out += example.prompt in held_out
    if not train or (not validation and validation_share > 0):
        raise InputError(
            f"{', '.join(sources)}: all examples share one prompt, so none can be held out for validation; "
            "add prompts or name a validation split"
        )
    read = sum(len(example.completions) for example in train)
    train = [_with_worst(example, worst_negatives) for example in train]
    audit.answers_left_out += read - sum(len(example.completions) for example in train)
    # Here, so that the drawn pairs are part of the fingerprint.
    validation = [as_pairs(example, seed) for example in validation]
    audit.train, audit.validation = len(train), len(validation)
    audit.shared_prompts = len({e.prompt for e in train} & {e.prompt for e in validation})
    audit.completions_per_prompt = dict(sorted(Counter(len(e.completions) for e in train).items()))
    return PreferenceData(tuple(train), tuple(validation), _fingerprint(train, validation), audit)


def as_pairs(example: PreferenceExample, seed: int) -> PreferenceExample:
    """The example with two completions: the chosen one and one of the others, drawn by seed and content."""
    chosen, *others = example.completions
    if len(others) == 1:
        return example
    drawn = others[int(_digest(seed, example.prompt, example.completions), 16) % len(others)]
    return replace(example, completions=(chosen, drawn))


def _with_worst(example: PreferenceExample, count: int) -> PreferenceExample:
    """The example with the last `count` of its negatives; 0 keeps all."""
    chosen, *others = example.completions
    return replace(example, completions=(chosen, *others[-count:])) if 0 < count < len(others) else example


def _check_options(
    sources: Sequence[str],
    strict: bool,
    drop_bad_rows: bool,
    validation_share: float,
    negatives_from_rank: int,
    worst_negatives: int,
) -> None:
    problems = []
    if not sources:
        problems.append("no source of preferences given: expected a file, a folder or a hub id")
    if strict and drop_bad_rows:
        problems.append("--strict refuses bad rows and --drop-bad-rows drops them: pass one of the two")
    if not 0 <= validation_share < 1:
        problems.append(f"validation_share is {validation_share}, expected a share from 0 to below 1")
    if negatives_from_rank < 2:
        problems.append(f"negatives_from_rank is {negatives_from_rank}, expected at least 2: rank 1 is the chosen")
    if worst_negatives < 0:
        problems.append(f"worst_negatives is {worst_negatives}, expected 0 (all) or more")
    if problems:
        raise InputError("\n".join(problems))


def _read_splits(
    source: Source, splits: Sequence[str], strict: bool, drop_bad_rows: bool, negatives_from_rank: int, audit: Audit
) -> dict[str, list[PreferenceExample]]:
    """The examples of each split; InputError with every row of the source that must be refused."""
    examples: dict[str, list[PreferenceExample]] = {}
    refused: list[tuple[Part, str, RowProblem]] = []
    rows_read = 0
    for split in splits:
        examples[split] = []
        problems: list[tuple[Part, str, RowProblem]] = []
        seen: dict[str, str] = {}
        rows_of_split = 0
        for part in source.splits[split]:
            counts = PartAudit(part.label, split)
            audit.parts.append(counts)
            for outcome in _examples(part, seen, negatives_from_rank):
                counts.rows += 1
                if len(outcome) == 2:
                    example, left_out = outcome
                    counts.kept += 1
                    examples[split].append(example)
                    audit.answers_left_out += left_out
                else:
                    number, place, problem = outcome
                    counts.dropped.setdefault(problem.reason, []).append(number)
                    problems.append((part, place, problem))
            rows_of_split += counts.rows
        rows_read += rows_of_split
        refused += [found for found in problems if strict or must_mend(found[2], source.from_hub, drop_bad_rows)]
        if not rows_of_split:
            raise InputError(f"{_name(source, split)} holds no rows: {EXPECTED}")
        if not examples[split] and not refused:
            raise InputError(
                f"{_name(source, split)}: none of {rows_of_split} rows can be used\n{_report(problems)}\n{EXPECTED}"
            )
    if refused:
        if strict:
            remedy = "mend these rows, or leave out --strict"
        elif source.from_hub:
            remedy = f"{EXPECTED}; pass --drop-bad-rows to leave these rows out, or train on a mended local copy"
        else:
            remedy = f"{EXPECTED}; mend these rows, or pass --drop-bad-rows to leave them out"
        raise InputError(f"{source.address}: {len(refused)} of {rows_read} rows refused\n{_report(refused)}\n{remedy}")
    return examples


def _examples(
    part: Part, seen: dict[str, str], negatives_from_rank: int
) -> Iterator[tuple[PreferenceExample, int] | tuple[int, str, RowProblem]]:
    """Each row's example with the number of answers left out, or the row's number, place and problem.

    `seen` holds what this split held so far.
    """
    for row in part.rows():
        try:
            if isinstance(row.value, RowProblem):
                raise row.value
            prompt, completions, left_out = parse_row(row.value, negatives_from_rank)
            content = _digest(prompt, completions)
            if content in seen:
                raise RowProblem("exact duplicate", f"the same as {seen[content]}")
            seen[content] = f"{row.place} of {part.label}"
            yield PreferenceExample(prompt, completions, source=part.label, row=row.number), left_out
        except RowProblem as problem:
            yield row.number, row.place, problem


def must_mend(problem: RowProblem, from_hub: bool, drop_bad_rows: bool) -> bool:
    """Whether such a row is refused, with all that are like it, before anything is trained."""
    if drop_bad_rows or problem.severity == "unusable":
        return False
    return problem.severity == "malformed" or not from_hub


def _held_out_prompts(examples: Iterable[PreferenceExample], seed: int, share: float) -> set[Turns]:
    """The share of the distinct prompts that is first in the order of hashes: at least one, never all."""
    prompts = sorted({example.prompt for example in examples}, key=lambda prompt: _digest(seed, prompt))
    count = min(max(1, round(share * len(prompts))), len(prompts) - 1) if share > 0 else 0
    return set(prompts[:count])


def _fingerprint(train: Iterable[PreferenceExample], validation: Iterable[PreferenceExample]) -> str:
    digest = hashlib.sha256()
    for split, examples in (("train", train), ("validation", validation)):
        for example in examples:
            digest.update(_canonical(split, example.prompt, example.completions) + b"\n")
    return digest.hexdigest()


def _digest(*content: object) -> str:
    return hashlib.sha256(_canonical(*content)).hexdigest()


def _canonical(*content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _name(source: Source, split: str) -> str:
    return f"{source.address}:{split}" if len(source.splits) > 1 else source.address


def _report(problems: Sequence[tuple[Part, str, RowProblem]]) -> str:
    """The reasons counted, the first rows in full, the number of the rest."""
    reasons = Counter(problem.reason for _, _, problem in problems)
    lines = [f"  {count} x {reason}" for reason, count in sorted(reasons.items(), key=lambda item: _order(item[0]))]
    lines += [f"  {part.label}, {place}: {problem.detail}" for part, place, problem in problems[:LISTED_ROWS]]
    if len(problems) > LISTED_ROWS:
        lines.append(f"  and {len(problems) - LISTED_ROWS} more")
    return "\n".join(lines)


def _order(reason: str) -> int:
    return list(REASONS).index(reason)


def _listed(what: str, numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - LISTED_ROWS} more" if len(numbers) > LISTED_ROWS else ""
    return f"{what}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:LISTED_ROWS]))}{more}"
