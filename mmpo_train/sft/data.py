"""Conversations to learn from: sources in, train and validation conversations out, read as a stream.

A row is `messages` (or `conversations`, ShareGPT's), `prompt` + `completion`, or `instruction` (+ `input`) + `output`,
each with a `system` column if there is one.
"""

import hashlib
import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mmpo_train.chat.columns import COMPLETIONS, SYSTEMS, TOOLS, columns_read, first_filled, layout_of
from mmpo_train.chat.completions import conversation, join
from mmpo_train.chat.doubts import note_left_over
from mmpo_train.chat.habits import NO_HABITS, Habits, without_prompt
from mmpo_train.chat.messages import Message, Turns, as_turn, is_empty, messages_of, tools_of, without_own_end
from mmpo_train.chat.problems import Notes, RowProblem, must_mend, refuse_noted
from mmpo_train.chat.prompts import given_prompt, note_unread, with_system
from mmpo_train.chat.texts import Doubled
from mmpo_train.data.audit import Problems, add_to, counted, unused_lines
from mmpo_train.data.files import Part, Row, numbered, with_habits
from mmpo_train.data.packed import require_memory
from mmpo_train.data.sources import Source, open_source
from mmpo_train.errors import InputError
from mmpo_train.tiny.rows import instruction_examples

MOST_HELD_OUT = 0.05
"""Largest share of the conversations that is held out of sources without a validation split."""
_MEASURED_ROWS = 1 << 14
_TINY = Part("tiny", lambda: numbered(instruction_examples()))
_EMBEDDED = Source("tiny", from_hub=False, train="train", validation=None, splits={"train": (_TINY,)})
"""The conversations that `tiny` is instruction-tuned on."""


@dataclass(frozen=True)
class Chat:
    """One conversation, which ends with an assistant's turn, and its source."""

    turns: Turns
    source: str
    row: int
    tools: str = ""
    """The tools that the assistant may call, as JSON; empty if there are none."""


@dataclass
class ChatAudit:
    """Numbers of the conversations read, kept and dropped."""

    rows: int = 0
    train: int = 0
    validation: int = 0
    held_out: int = 0
    """Validation conversations that were held out of train splits because their source has no validation split."""
    left_out: int = 0
    """Conversations of validation splits beyond the number wanted."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> "source, row n"."""
    noted: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> "source, row n" of conversations that were kept."""
    unused: dict[str, int] = field(default_factory=dict)
    """Column, or key of messages, that had values and was not read -> rows."""

    def note(self, notes: Notes, place: str) -> None:
        """Add the notes on one row."""
        add_to(self.noted, notes.reasons, place)
        for name in notes.unused:
            self.unused[name] = self.unused.get(name, 0) + 1

    def lines(self) -> list[str]:
        """The audit in words, one line per fact."""
        held_out = f" ({self.held_out} held out)" if self.held_out else ""
        left_out = f", {self.left_out} more of the validation splits left out" if self.left_out else ""
        lines = [f"{self.rows} rows: train {self.train}, validation {self.validation}{held_out}{left_out}"]
        return lines + counted("dropped", self.dropped) + counted("noted", self.noted) + unused_lines(self.unused)


@dataclass(frozen=True)
class ChatData:
    """The conversations of a mixture, named by content."""

    sources: tuple[Source, ...]
    validates: frozenset[bytes]
    """Keys of the conversations that validate."""
    fingerprint: str
    """SHA-256 over the usable conversations in order, and over which of them validate."""
    content: str
    """The same over the conversations alone."""
    audit: ChatAudit

    def conversations(self, split: str) -> Iterator[Chat]:
        """The conversations of `train` or `validation`, read again, in the order of the sources."""
        for source, part, of_validation, row, habits in _rows(self.sources):
            try:
                turns, tools, _ = parse_chat(row.value, habits)
            except RowProblem:
                continue  # counted when the data was looked through
            chat = Chat(turns, part.label, row.number, tools)
            if _split(chat, source, of_validation, self.validates) == split:
                yield chat


def load_chats(
    given: Sequence[str], validation_conversations: int, *, strict: bool = False, drop_bad_rows: bool = False
) -> ChatData:
    """The conversations of all sources, read once. Raises InputError for data that are unreadable or must be corrected.

    Validation splits contribute their first `validation_conversations` by hash. Sources without one hold out as many,
    at most a twentieth, by the hash of the opening turns, so that conversations that begin alike stay together.
    """
    sources = tuple(_EMBEDDED if one == "tiny" else open_source(one) for one in given)
    audit, refused, digest = ChatAudit(), Problems(), hashlib.sha256()
    offered: dict[bool, list[bytes]] = {True: [], False: []}
    for source, part, of_validation, row, habits in _rows(sources):
        audit.rows += 1
        place = f"{part.label}, {row.place}"
        try:
            turns, tools, notes = parse_chat(row.value, habits)
            if strict:
                refuse_noted(notes)
        except RowProblem as problem:
            add_to(audit.dropped, [problem.reason], place)
            if strict or must_mend(problem, source.from_hub, drop_bad_rows):
                refused.add(problem, place)
            continue
        chat = Chat(turns, part.label, row.number, tools)
        audit.note(notes, place)
        digest.update(_canonical(of_validation, chat.turns, *([tools] if tools else [])) + b"\n")
        if audit.rows % _MEASURED_ROWS == 0:
            require_memory(part.label)
        audit.train += not of_validation
        if of_validation or source.validation is None:
            offered[of_validation].append(_key(chat, of_validation))
    if refused:
        remedy = "leave out --strict" if strict else "leave them out with --drop-bad-rows"
        raise InputError(f"conversations that cannot be learned from:\n{refused}\ncorrect them, or {remedy}")
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
            f"{', '.join(given)} has {audit.train} conversations to train on and {audit.validation} to validate on; "
            "both are needed: give more data, or name a validation split\n" + "\n".join(audit.lines())
        )
    content = digest.hexdigest()
    digest.update(b"".join(sorted(chosen)))
    return ChatData(sources, chosen, digest.hexdigest(), content, audit)


class ParsedChat(NamedTuple):
    turns: Turns
    tools: str
    """The tools that the assistant may call, as JSON; empty where there are none."""
    notes: Notes


def parse_chat(value: object, habits: Habits = NO_HABITS) -> ParsedChat:
    """The turns of one row up to the assistant's last. Raises RowProblem if there is nothing to learn."""
    if isinstance(value, RowProblem):
        raise value
    if not isinstance(value, dict):
        raise RowProblem("not an object", f"expected an object with named columns, found {str(value)[:40]!r}")
    notes = Notes()
    if isinstance(value, Doubled):
        notes.reasons["keys given twice"] = "the row gives a key twice; the last one is read"
    messages = value.get("messages") is not None
    completion = "" if messages else first_filled(value, COMPLETIONS)
    if messages:
        turns = messages_of("messages", value["messages"], notes)
    else:
        turns = given_prompt(value, notes) or ()
        if completion:
            head, said = conversation(completion, value[completion], turns or None, notes)
            turns = join(turns, head)
            turns = (*turns, *map(as_turn, without_prompt(turns, [said], habits, notes) if turns else [said]))
        elif value.get("conversations") is None:
            columns = ", ".join(map(str, value)) or "none"
            raise RowProblem("missing column", f"no 'messages', nor a prompt with a completion; columns: {columns}")
    turns = with_system(value, turns, notes)
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    if not turns:
        raise RowProblem("completion is not an assistant turn", "the assistant says nothing")
    for place, turn in enumerate(turns, 1):
        if is_empty(turn):
            reason = "empty completion" if turn.role == "assistant" else "empty prompt"
            raise RowProblem(reason, f"turn {place} ({turn.role}) is empty")
    if not any(turn.role == "user" for turn in turns):
        raise RowProblem("empty prompt", "the user says nothing")
    turns = tuple(without_own_end(turn, notes) for turn in turns)
    answers = [turn.content if isinstance(turn, Message) else turn for turn in turns if turn.role == "assistant"]
    note_left_over([turn.content for turn in turns if turn.role != "assistant"], answers, notes)
    beside = first_filled(value, SYSTEMS), first_filled(value, TOOLS)
    read = ("messages", *beside) if messages else (completion, *columns_read(value))
    note_unread(value, layout_of(tuple(value), read), turns, (), notes)
    return ParsedChat(turns, tools_of(value), notes)


def _rows(sources: Sequence[Source]) -> Iterator[tuple[Source, Part, bool, Row, Habits]]:
    """Every row of the used splits, whether it belongs to a validation split, and its file's habits."""
    for source in sources:
        for split in (source.train, source.validation):
            for part in source.splits[split] if split else ():
                rows, habits = with_habits(part.rows(), COMPLETIONS)
                for row in rows:
                    yield source, part, split == source.validation, row, habits


def _split(chat: Chat, source: Source, of_validation: bool, validates: frozenset[bytes]) -> str:
    """train or validation; empty for a conversation that is left out."""
    if of_validation:
        return "validation" if _key(chat, True) in validates else ""
    return "validation" if source.validation is None and _key(chat, False) in validates else "train"


def _key(chat: Chat, whole: bool) -> bytes:
    """Hash by which a conversation is chosen: of all of it, or of its opening turns."""
    opening = next(place for place, turn in enumerate(chat.turns, 1) if turn.role == "user")
    return hashlib.sha256(_canonical(whole, chat.turns if whole else chat.turns[:opening])).digest()[:16]


def _canonical(*content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
