"""Counts of the rows that were kept, dropped and noted, for the terminal and for the ledger."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmpo_train.chat.columns import may_change_meaning
from mmpo_train.chat.problems import REASONS, RowProblem

LISTED_ROWS = 5


@dataclass
class Problems:
    """Rows that cannot be used: their number by reason, and the details of the first ones."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def add(self, problem: RowProblem, place: str) -> None:
        self.reasons[problem.reason] += 1
        if len(self.first) < LISTED_ROWS:
            self.first.append(f"  {place}: {problem.detail}")

    def __len__(self) -> int:
        return self.reasons.total()

    def __str__(self) -> str:
        """The number of rows by reason, the details of the first rows, and the number of the others."""
        lines = [f"  {self.reasons[reason]} x {reason}" for reason in REASONS if reason in self.reasons] + self.first
        more = len(self) - len(self.first)
        return "\n".join([*lines, f"  and {more} more"] if more else lines)


@dataclass
class PartAudit:
    """Counts of the rows of one file or table."""

    source: str
    split: str
    rows: int = 0
    kept: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> 1-based rows."""
    noted: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> 1-based rows that were kept."""


@dataclass
class Audit:
    """Counts of the rows of all sources, and of the examples made from them."""

    parts: list[PartAudit] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    """Column or message key that had content and was not read -> number of rows."""
    train: int = 0
    """Examples to train on."""
    validation: int = 0
    """Examples to validate on."""
    held_out: int = 0
    """Validation examples that were held out of train splits because their source has no validation split."""
    shared_prompts: int = 0
    """Validation prompts that also occur in train: contamination."""
    answers_left_out: int = 0
    """Ranked answers that are not completions: tied with the best, ranked too high, or not among the worst."""
    completions_per_prompt: dict[int, int] = field(default_factory=dict)
    """K -> number of training examples with K completions. Validation examples have two."""

    def lines(self) -> list[str]:
        """The audit in words, one line per fact."""
        lines = []
        for part in self.parts:
            count = part.rows - part.kept
            lines.append(f"{part.source} ({part.split}): {part.kept} of {part.rows} rows kept, {count} dropped")
            lines += counted("dropped", part.dropped) + counted("noted", part.noted)
        lines += unused_lines(self.unused)
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
        """The audit as JSON-able values."""
        return asdict(self)


def counted(what: str, reasons: Mapping[str, Sequence[int | str]]) -> list[str]:
    """One line per reason, with the number of rows and the first of them."""
    return [f"  {what} {len(rows)}: {reason} ({_listed(rows)})" for reason, rows in reasons.items()]


def unused_lines(unused: Mapping[str, int]) -> list[str]:
    """Names of columns and keys that were not read. Those that may change the meaning have a line of their own."""
    weighty = [f"{name} ({rows} rows)" for name, rows in unused.items() if may_change_meaning(name)]
    others = [name for name in unused if not may_change_meaning(name)]
    lines = [f"warning: not used, though it may change what is meant: {', '.join(weighty)}"] if weighty else []
    return lines + ([f"not used: {', '.join(others)}"] if others else [])


def add_to(reasons: dict[str, list[Any]], found: Iterable[str], row: int | str) -> None:
    """Add the row to the list of each reason."""
    for reason in found:
        reasons.setdefault(reason, []).append(row)


def _listed(rows: Sequence[int | str]) -> str:
    more = f" and {len(rows) - LISTED_ROWS} more" if len(rows) > LISTED_ROWS else ""
    first = ("; " if isinstance(rows[0], str) else ", ").join(map(str, rows[:LISTED_ROWS])) + more
    return first if isinstance(rows[0], str) else f"row{'s' if len(rows) > 1 else ''} {first}"
