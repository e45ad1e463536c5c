"""The reasons why a row is dropped or noted, and how a parser reports them."""

from dataclasses import dataclass, field
from typing import Literal

from mmpo_train.chat.columns import may_change_meaning

Severity = Literal["malformed", "bad", "unusable", "noted", "read"]

# malformed: not in any known format. bad: a mistake in the data. unusable: well formed, but nothing to learn from.
# noted: kept, but perhaps not as intended; --strict refuses it. read: kept, after a change that is counted.
_OF_SEVERITY: dict[Severity, tuple[str, ...]] = {
    "malformed": ("unreadable row", "not an object", "missing column", "wrong type", "not text"),
    "bad": ("empty prompt", "empty completion", "chosen equals rejected"),
    "unusable": (
        *("prompts of chosen and rejected differ", "prompt does not end with a user turn"),
        *("completion is not an assistant turn", "unknown role", "nothing ranked below the chosen"),
        "exact duplicate",
    ),
    "noted": (
        *("content that is not used", "keys given twice", "completion without a visible character"),
        *("completion reads like a transcript", "nothing visible to tell chosen from rejected"),
        *("chosen rated below rejected", "chosen and rejected rated alike", "the opposite of another row"),
        *("completion repeats the prompt", "completion begins with its author"),
        *("a chat template's marks in the text", "a place for a picture or sound"),
    ),
    "read": (
        *("messages read from JSON or Python text", "turns read from a transcript", "end tokens taken off"),
        *("prompt taken off the completions", "prompt read as what chosen and rejected have in common"),
    ),
}
REASONS = {reason: severity for severity, reasons in _OF_SEVERITY.items() for reason in reasons}


@dataclass(slots=True)
class Notes:
    """Remarks on one row."""

    reasons: dict[str, str] = field(default_factory=dict)
    """Reason (noted or read) -> what was found."""
    unused: list[str] = field(default_factory=list)
    """Columns and message keys that have content and are not read."""

    def leave_out(self, name: str, where: str) -> None:
        """Note that this column or message key is not read."""
        if name not in self.unused:
            self.unused.append(name)
        if may_change_meaning(name):
            self.reasons["content that is not used"] = f"{where} holds {name}, which is not used"


class RowProblem(Exception):
    """A row that cannot be used. `reason` is a key of REASONS, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    @property
    def severity(self) -> Severity:
        return REASONS[self.reason]


def must_mend(problem: RowProblem, from_hub: bool, drop_bad_rows: bool) -> bool:
    """Whether rows with this problem must be corrected before training; otherwise they are dropped."""
    if drop_bad_rows or problem.severity == "unusable":
        return False
    return problem.severity == "malformed" or not from_hub


def refuse_noted(notes: Notes) -> None:
    """Raises RowProblem for the first noted reason; --strict calls it for each usable row."""
    for reason, detail in notes.reasons.items():
        if REASONS[reason] == "noted":
            raise RowProblem(reason, detail)


def shown(value: object) -> str:
    """A value, shortened for a message."""
    kinds = {dict: "an object ", list: "a list ", bool: "a boolean ", int: "a number ", float: "a number "}
    text = repr(value) if not isinstance(value, str) else repr(value[:60])
    return kinds.get(type(value), "") + (text if len(text) <= 40 else text[:37] + "...")
