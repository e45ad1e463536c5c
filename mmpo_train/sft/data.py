"""Conversations to learn from: sources in, train and validation conversations out, read as a stream.

A row is `messages` (or `conversations`, ShareGPT's), `prompt` + `completion`, or `instruction` (+ `input`) + `output`,
each with a `system` column if there is one.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mmpo_train.data.files import Part, Row
from mmpo_train.data.preferences import must_mend
from mmpo_train.data.rows import Message, RowProblem, Turns, given_prompt, messages_of, text_of
from mmpo_train.data.sources import Source, open_source
from mmpo_train.errors import InputError
from mmpo_train.tiny.rows import instruction_examples

COMPLETIONS = ("completion", "output", "response", "answer")
MOST_HELD_OUT = 0.05
"""Share of the conversations that is held out of sources without a validation split, at most."""
_LISTED_ROWS = 5


@dataclass(frozen=True)
class Chat:
    """One conversation that ends with an assistant's turn, and where it came from."""

    turns: Turns
    source: str
    row: int


@dataclass
class ChatAudit:
    """What was read, kept and dropped."""

    rows: int = 0
    train: int = 0
    validation: int = 0
    held_out: int = 0
    """Of those, conversations held out of train splits because their source has no validation split."""
    left_out: int = 0
    """Conversations of validation splits beyond the number wanted."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> "source, row n"."""

    def lines(self) -> list[str]:
        """The audit for people, a line a fact."""
        held_out = f" ({self.held_out} held out)" if self.held_out else ""
        left_out = f", {self.left_out} more of the validation splits left out" if self.left_out else ""
        lines = [f"{self.rows} rows: train {self.train}, validation {self.validation}{held_out}{left_out}"]
        for reason, rows in self.dropped.items():
            more = f" and {len(rows) - _LISTED_ROWS} more" if len(rows) > _LISTED_ROWS else ""
            lines.append(f"  dropped {len(rows)}: {reason} ({'; '.join(rows[:_LISTED_ROWS])}{more})")
        return lines


@dataclass(frozen=True)
class ChatData:
    """The conversations of a mixture, named by content."""

    sources: tuple[Source, ...]
    validates: frozenset[bytes]
    """Keys of the conversations that validate."""
    fingerprint: str
    """SHA-256 over the usable conversations in order, and over who of them validates."""
    audit: ChatAudit

    def conversations(self, split: str) -> Iterator[Chat]:
        """Those of `train` or `validation`, read anew, in the order of the sources."""
        for source, part, of_validation, row in _rows(self.sources):
            try:
                chat = Chat(parse_chat(row.value), part.label, row.number)
            except RowProblem:
                continue  # counted when the data was looked through
            if _split(chat, source, of_validation, self.validates) == split:
                yield chat


def load_chats(
    given: Sequence[str], validation_conversations: int, *, strict: bool = False, drop_bad_rows: bool = False
) -> ChatData:
    """Looks through all sources once. Raises InputError for what cannot be read or must be mended first.

    Validation splits give up their first `validation_conversations` by hash; sources without one hold out as many, a
    twentieth at most, by the hash of the opening turns, so that conversations that begin alike stay together.
    """
    sources = tuple(_embedded() if one == "tiny" else open_source(one) for one in given)
    audit, refused, digest = ChatAudit(), [], hashlib.sha256()
    offered: dict[bool, list[bytes]] = {True: [], False: []}
    for source, part, of_validation, row in _rows(sources):
        audit.rows += 1
        try:
            chat = Chat(parse_chat(row.value), part.label, row.number)
        except RowProblem as problem:
            place = f"{part.label}, {row.place}"
            audit.dropped.setdefault(problem.reason, []).append(place)
            if strict or must_mend(problem, source.from_hub, drop_bad_rows):
                refused.append(f"  {place}: {problem.detail}")
            continue
        digest.update(_canonical(of_validation, chat.turns) + b"\n")
        audit.train += not of_validation
        if of_validation or source.validation is None:
            offered[of_validation].append(_key(chat, of_validation))
    if refused:
        more = [f"  and {len(refused) - _LISTED_ROWS} more"] if len(refused) > _LISTED_ROWS else []
        raise InputError(
            "\n".join(["conversations that cannot be learned from:", *refused[:_LISTED_ROWS], *more])
            + "\nmend them, or leave them out with --drop-bad-rows"
        )
    openings = set(offered[False])
    held_out = min(validation_conversations, max(1, int(MOST_HELD_OUT * len(offered[False]))), len(openings) - 1)
    chosen = frozenset(
        (*heapq.nsmallest(validation_conversations, offered[True]), *heapq.nsmallest(held_out, openings))
    )
    audit.held_out = sum(key in chosen for key in offered[False])
    of_splits = sum(key in chosen for key in offered[True])
    audit.left_out = len(offered[True]) - of_splits
    audit.train, audit.validation = audit.train - audit.held_out, audit.held_out + of_splits
    if not audit.train or not audit.validation:
        raise InputError(
            f"{', '.join(given)} leaves {audit.train} conversations to train on and {audit.validation} to validate on; "
            "both are needed: give more data, or name a validation split\n" + "\n".join(audit.lines())
        )
    digest.update(b"".join(sorted(chosen)))
    return ChatData(sources, chosen, digest.hexdigest(), audit)


def parse_chat(value: object) -> Turns:
    """The turns of one row up to the assistant's last. Raises RowProblem where there is nothing to learn."""
    if isinstance(value, RowProblem):
        raise value
    if not isinstance(value, dict):
        raise RowProblem("not an object", f"expected an object with named columns, found {str(value)[:40]!r}")
    if value.get("messages") is not None:
        turns = messages_of("messages", value["messages"])
    else:
        turns = given_prompt(value) or ()
        completion = next((name for name in COMPLETIONS if value.get(name) is not None), None)
        if completion:
            turns = (*turns, Message("assistant", text_of(completion, value[completion])))
        elif value.get("conversations") is None:
            columns = ", ".join(map(str, value)) or "none"
            raise RowProblem("missing column", f"no 'messages', nor a prompt with a completion; columns: {columns}")
    system = text_of("system", value.get("system") or "")
    if system.strip() and turns and turns[0].role != "system":
        turns = (Message("system", system), *turns)
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    if not turns:
        raise RowProblem("completion is not an assistant turn", "the assistant says nothing")
    for place, turn in enumerate(turns, 1):
        if not turn.content.strip():
            reason = "empty completion" if turn.role == "assistant" else "empty prompt"
            raise RowProblem(reason, f"turn {place} ({turn.role}) is empty")
    if not any(turn.role == "user" for turn in turns):
        raise RowProblem("empty prompt", "the user says nothing")
    return turns


def _rows(sources: Sequence[Source]) -> Iterator[tuple[Source, Part, bool, Row]]:
    """Every row of the splits that are used, and whether it is of a validation split."""
    for source in sources:
        for split in (source.train, source.validation):
            for part in source.splits[split] if split else ():
                for row in part.rows():
                    yield source, part, split == source.validation, row


def _split(chat: Chat, source: Source, of_validation: bool, validates: frozenset[bytes]) -> str:
    """train, validation, or nothing for what is left out."""
    if of_validation:
        return "validation" if _key(chat, True) in validates else ""
    return "validation" if source.validation is None and _key(chat, False) in validates else "train"


def _key(chat: Chat, whole: bool) -> bytes:
    """What a conversation is chosen by: all of it, or its opening turns."""
    opening = next(place for place, turn in enumerate(chat.turns, 1) if turn.role == "user")
    return hashlib.sha256(_canonical(whole, chat.turns if whole else chat.turns[:opening])).digest()[:16]


def _canonical(*content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _embedded() -> Source:
    """What `tiny` is instruction-tuned on, made here."""

    def rows() -> Iterator[Row]:
        for number, row in enumerate(instruction_examples(), 1):
            yield Row(number, f"row {number}", row)

    return Source("tiny", from_hub=False, train="train", validation=None, splits={"train": (Part("tiny", rows),)})
