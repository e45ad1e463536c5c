"""Preference data of a trial: sources in, train and validation examples out, with an audit of the rest.

    load_preferences(["HuggingFaceH4/ultrafeedback_binarized:train_prefs:test_prefs", "data/pairs.json"])

`rows.py` parses rows, `files.py` reads files, `sources.py` opens folders and hub datasets and chooses splits.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmpo_train.chat.habits import Habits
from mmpo_train.chat.messages import Turns, said_in
from mmpo_train.chat.problems import Notes, RowProblem, must_mend, refuse_noted
from mmpo_train.data.audit import Audit, PartAudit, Problems, add_to
from mmpo_train.data.files import Part, Row, with_habits
from mmpo_train.data.packed import require_memory
from mmpo_train.data.rows import PreferenceExample, parse_row
from mmpo_train.data.selection import as_pairs, content_of, every_pair, fingerprint_of, held_out_prompts, with_worst
from mmpo_train.data.sources import Source, open_source
from mmpo_train.errors import InputError

EXPECTED = (
    "expected prompt + chosen + rejected (text or messages), conversations + chosen + rejected, "
    "or prompt + answers with ranks"
)

_ROW_BYTES, _MEASURED_BYTES = 1 << 10, 1 << 26
"""Memory of a row besides its texts, and the amount of new data after which the free memory is checked."""


@dataclass(frozen=True)
class PreferenceData:
    train: tuple[PreferenceExample, ...]
    validation: tuple[PreferenceExample, ...]
    fingerprint: str
    """SHA-256 over splits, prompts and completions in order, whatever file they were read from."""
    content: str
    """SHA-256 over prompts, best and worst completions of all rows: the same however they are split and chosen from."""
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
    pair_every_negative: bool = False,
) -> PreferenceData:
    """Train and validation examples of a mixture: the sources' parts one after the other, in the order given.

    Train examples have all completions of their prompt, validation examples two (`as_pairs`), so that all trials are
    validated on the same pairs. The other settings are TrialConfig's (`holdout_seed` is `seed`). A source without a
    validation split gives up `validation_share` of its prompts (0: none), by a hash of prompt and seed.

    Refused with InputError: a source that cannot be read; malformed rows; bad rows of local files (those of a hub
    dataset are dropped). Unusable rows are dropped and counted. `drop_bad_rows` drops them all, `strict` refuses them
    all (`problems.REASONS`).
    """
    if isinstance(sources, str):
        raise TypeError(f"expected a sequence of sources, found the text {sources!r}")
    rank = f"negatives_from_rank is {negatives_from_rank}, expected at least 2: rank 1 is the chosen"
    is_wrong = {
        "no source of preferences given: expected a file, a folder or a hub id": not sources,
        "--strict refuses bad rows and --drop-bad-rows drops them: pass one of the two": strict and drop_bad_rows,
        f"validation_share is {validation_share}, expected a share from 0 to below 1": not 0 <= validation_share < 1,
        rank: negatives_from_rank < 2,
        f"worst_negatives is {worst_negatives}, expected 0 (all) or more": worst_negatives < 0,
    }
    if any(is_wrong.values()):
        raise InputError("\n".join(problem for problem, wrong in is_wrong.items() if wrong))
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
            held_out |= held_out_prompts(examples[source.train], seed, validation_share)
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
    content = content_of(example for _, of_source in sides for split in of_source.values() for example in split)
    read = sum(len(example.completions) for example in train)
    train = [with_worst(example, worst_negatives) for example in train]
    audit.answers_left_out += read - sum(len(example.completions) for example in train)
    if pair_every_negative:
        train = [pair for example in train for pair in every_pair(example)]
    # Here, so that the drawn pairs are part of the fingerprint.
    validation = [as_pairs(example, seed) for example in validation]
    audit.train, audit.validation = len(train), len(validation)
    audit.shared_prompts = len({e.prompt for e in train} & {e.prompt for e in validation})
    audit.completions_per_prompt = dict(sorted(Counter(len(e.completions) for e in train).items()))
    return PreferenceData(tuple(train), tuple(validation), fingerprint_of(train, validation), content, audit)


def _read_splits(
    source: Source, splits: Sequence[str], strict: bool, drop_bad_rows: bool, negatives_from_rank: int, audit: Audit
) -> dict[str, list[PreferenceExample]]:
    """The examples of each split. Raises InputError naming every row of the source that must be corrected."""
    examples: dict[str, list[PreferenceExample]] = {}
    refused = Problems()
    rows_read = 0
    for split in splits:
        reader = _Split(audit, strict, negatives_from_rank)
        problems = Problems()
        for part in source.splits[split]:
            for place, problem in reader.read(part, split):
                problems.add(problem, place)
                if strict or must_mend(problem, source.from_hub, drop_bad_rows):
                    refused.add(problem, place)
        examples[split] = reader.examples
        rows_read += reader.rows
        if not reader.rows:
            raise InputError(f"{_name(source, split)} has no rows; {EXPECTED}")
        if not reader.examples and not refused:
            raise InputError(f"{_name(source, split)}: none of {reader.rows} rows can be used\n{problems}\n{EXPECTED}")
    if refused:
        if strict:
            remedy = "correct these rows, or leave out --strict"
        elif source.from_hub:
            remedy = f"{EXPECTED}; pass --drop-bad-rows to leave these rows out, or train on a corrected local copy"
        else:
            remedy = f"{EXPECTED}; correct these rows, or pass --drop-bad-rows to leave them out"
        raise InputError(f"{source.address}: {len(refused)} of {rows_read} rows refused\n{refused}\n{remedy}")
    return examples


class _Split:
    """The examples of one split, while its rows are read."""

    def __init__(self, audit: Audit, strict: bool, negatives_from_rank: int) -> None:
        self.examples: list[PreferenceExample] = []
        self.rows = 0
        self._audit, self._strict, self._negatives_from_rank = audit, strict, negatives_from_rank
        self._seen: dict[tuple[object, ...], tuple[str, str]] = {}
        self._preferred: set[int] = set()
        """Hashes of (prompt, better, worse)."""
        self._unmeasured = 0

    def read(self, part: Part, split: str) -> Iterator[tuple[str, RowProblem]]:
        """Add the part's examples to `examples`; yields place and problem of each row that cannot be used."""
        counts = PartAudit(part.label, split)
        self._audit.parts.append(counts)
        rows, habits = with_habits(part.rows())
        for row in rows:
            counts.rows += 1
            self.rows += 1
            try:
                example, notes = self._example(part, row, habits)
            except RowProblem as problem:
                add_to(counts.dropped, [problem.reason], row.number)
                yield f"{part.label}, {row.place}", problem
                continue
            counts.kept += 1
            self.examples.append(example)
            if notes.reasons:
                add_to(counts.noted, notes.reasons, row.number)
            for name in notes.unused:
                self._audit.unused[name] = self._audit.unused.get(name, 0) + 1
            self._watch_memory(part, example)

    def _example(self, part: Part, row: Row, habits: Habits) -> tuple[PreferenceExample, Notes]:
        if isinstance(row.value, RowProblem):
            raise row.value
        prompt, completions, tools, left_out, notes = parse_row(row.value, self._negatives_from_rank, habits)
        content = (prompt, completions, tools)
        if content in self._seen:
            raise RowProblem("exact duplicate", "the same as {} of {}".format(*self._seen[content]))
        asked, (chosen, *others) = hash(prompt), completions
        if any(hash((asked, other, chosen)) in self._preferred for other in others):
            notes.reasons["the opposite of another row"] = "another row prefers what this one rejects"
        if self._strict:
            refuse_noted(notes)
        self._seen[content] = row.place, part.label
        self._preferred.update(hash((asked, chosen, other)) for other in others)
        self._audit.answers_left_out += left_out
        return PreferenceExample(prompt, completions, part.label, row.number, tools), notes

    def _watch_memory(self, part: Part, example: PreferenceExample) -> None:
        self._unmeasured += _ROW_BYTES + sum(map(len, map(said_in, example.completions)))
        self._unmeasured += sum(len(turn.content) for turn in example.prompt)
        if self._unmeasured > _MEASURED_BYTES:
            require_memory(part.label)
            self._unmeasured = 0


def _name(source: Source, split: str) -> str:
    return f"{source.address}:{split}" if len(source.splits) > 1 else source.address
