"""The prompt of a row, from its columns for prompt, system message and earlier turns."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmpo_train.chat.columns import PROMPTS, SYSTEMS, Layout, filled, first_filled
from mmpo_train.chat.messages import Completion, Message, Turns, list_of, messages_of, said_in, text_of
from mmpo_train.chat.problems import Notes, RowProblem, shown
from mmpo_train.chat.texts import ROLES, marked_turns, may_spell_turns, parse_json, spoken_turns, written_messages


def given_prompt(row: Mapping[str, Any], notes: Notes) -> Turns | None:
    """The prompt in the row's prompt columns, preceded by its history; None if no prompt column is filled."""
    name = first_filled(row, PROMPTS)
    if not name:
        return None
    value = row[name]
    if name == "conversations" or isinstance(value, (list, dict)):
        turns = messages_of(name, value, notes)
    else:
        text = text_of(name, value)
        turns = turns_in(name, text, notes)
        if turns and turns[-1].role == "assistant" and not turns[-1].content.strip():
            turns = turns[:-1]  # where the completion is to follow
        if not turns:
            extra = text_of("input", row.get("input") or "") if name == "instruction" else ""
            turns = (Message("user", f"{text}\n{extra}" if extra.strip() else text),)
    return (*_history(row), *turns) if filled(row.get("history")) else turns


def turns_in(name: str, text: str, notes: Notes, *, spoken: bool = True) -> Turns:
    """The turns in a text that is a list of messages or a transcript; empty for any other text. Without `spoken` only
    text with a chat template's tokens is a transcript."""
    if not may_spell_turns(text):
        return ()
    if written_messages(text) is not None:
        return messages_of(name, text, notes)
    found = marked_turns(text)
    if found or (spoken and not text.startswith("\n\nHuman:")):
        found = found or spoken_turns(text)
        if found:
            notes.reasons["turns read from a transcript"] = name
    elif spoken:
        found = spoken_turns(text)
    if strange := [author for author, _ in found if author.lower() not in ROLES]:
        raise RowProblem("unknown role", f"{name} has a turn of '{strange[0]}'; known: {', '.join(ROLES)}")
    turns = (Message(ROLES[author.lower()], said) for author, said in found)
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def with_system(row: Mapping[str, Any], turns: Turns, notes: Notes) -> Turns:
    """The turns, preceded by the row's system column unless they have a system message."""
    name = first_filled(row, SYSTEMS)
    system = text_of(name, row[name]) if name else ""
    if not system.strip():
        return turns
    if not (turns and turns[0].role == "system"):
        return (Message("system", system), *turns)
    if system.strip() != turns[0].content.strip():
        notes.leave_out(name, "the row")
    return turns


def note_unread(
    row: Mapping[str, Any], layout: Layout, prompt: Turns, completions: Sequence[Completion], notes: Notes
) -> None:
    """Note the columns that have content and are not read. Raises RowProblem for images, sound and video."""
    for name in layout.media:
        if filled(row[name]):
            raise RowProblem("not text", f"the row has {name}, and only text can be learned from")
    for name in layout.plain:
        if filled(row[name]):
            notes.unused.append(name)
    for name in layout.weighty:
        value = row[name]
        if not filled(value):
            continue
        said = [turn.content for turn in prompt] + [said_in(completion) for completion in completions]
        texts = _texts_in(value)
        if texts and all(any(text.strip() in other for other in said) for text in texts):
            notes.unused.append(f"{name} (repeated)")
        else:
            notes.leave_out(name, "the row")


def _texts_in(value: object) -> list[str]:
    """A column's text, or those of the messages in it; empty for anything else."""
    if not isinstance(value, list):
        return [value] if isinstance(value, str) else []
    items = [item.get("content", item.get("value")) if isinstance(item, dict) else item for item in value]
    texts = [item for item in items if isinstance(item, str)]
    return texts if len(texts) == len(items) else []


def _history(row: Mapping[str, Any]) -> Turns:
    """The turns of LLaMA-Factory's history: pairs of an earlier question and its answer."""
    value = row["history"]
    found: list[Message] = []
    pairs = parse_json(value, "history") if isinstance(value, str) else value
    for place, pair in enumerate(list_of("history", pairs), 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowProblem("wrong type", f"history[{place}] should be a question and its answer, found {shown(pair)}")
        question, answer = (text_of(f"history[{place}]", text) for text in pair)
        found += [Message("user", question), Message("assistant", answer)]
    return tuple(found)
