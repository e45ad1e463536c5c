"""The reasons why a row is dropped or noted, and how a parser reports them."""

from dataclasses import dataclass, field
from typing import Literal

from mmpo_train.chat.columns import may_change_meaning

Severity = Literal["malformed", "bad", "unusable", "noted", "read"]

# malformed: not in any known format. bad: a mistake in the data. unusable: well formed, but nothing to learn from.
# noted: kept, but perhaps not as intended; --strict refuses it. read: kept, after a change that is counted.
REASONS: dict[str, Severity] = {
    "unreadable row": "malformed",
    "not an object": "malformed",
    "missing column": "malformed",
    "wrong type": "malformed",
    "not text": "malformed",
    "empty prompt": "bad",
    "empty completion": "bad",
    "chosen equals rejected": "bad",
    "prompts of chosen and rejected differ": "unusable",
    "prompt does not end with a user turn": "unusable",
    "completion is not an assistant turn": "unusable",
    "unknown role": "unusable",
    "nothing ranked below the chosen": "unusable",
    "exact duplicate": "unusable",
    "content that is not used": "noted",
    "keys given twice": "noted",
    "completion without a visible character": "noted",
    "completion reads like a transcript": "noted",
    "nothing visible to tell chosen from rejected": "noted",
    "chosen rated below rejected": "noted",
    "chosen and rejected rated alike": "noted",
    "the opposite of another row": "noted",
    "completion repeats the prompt": "noted",
    "completion begins with its author": "noted",
    "a chat template's marks in the text": "noted",
    "a place for a picture or sound": "noted",
    "messages read from JSON or Python text": "read",
    "turns read from a transcript": "read",
    "end tokens taken off": "read",
    "prompt taken off the completions": "read",
    "prompt read as what chosen and rejected have in common": "read",
}


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
