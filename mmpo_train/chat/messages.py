"""Turns of a conversation, read from messages in the forms that data files use."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mmpo_train.chat.columns import TOOLS, filled, first_filled, is_media
from mmpo_train.chat.problems import Notes, RowProblem, shown
from mmpo_train.chat.texts import ROLES, Doubled, parse_json, without_end_tokens, written_messages


class Message(NamedTuple):
    role: str
    """system, user, assistant or tool"""
    content: str

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it."""
        return {"role": self.role, "content": self.content}


class ToolMessage(NamedTuple):
    """The assistant's call of tools, or a tool's answer."""

    role: str
    content: str
    """The text besides the calls; may be empty."""
    more: str
    """The other keys for the chat template, as JSON: tool_calls, or name and tool_call_id."""

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it."""
        return {"role": self.role, "content": self.content, **json.loads(self.more)}


Turn = Message | ToolMessage
Turns = tuple[Turn, ...]
Completion = str | ToolMessage
"""The assistant's last turn: its text, or a call of tools."""

_READ = frozenset(("role", "content", "from", "value"))
_OF_TOOLS = {"assistant": ("tool_calls", "function_call"), "tool": ("name", "tool_call_id")}


def as_turn(completion: Completion) -> Turn:
    """The completion as the assistant's turn."""
    return Message("assistant", completion) if isinstance(completion, str) else completion


def said_in(completion: Completion) -> str:
    """The text of a completion."""
    return completion if isinstance(completion, str) else completion.content


def is_empty(turn: Turn) -> bool:
    """Whether the turn is empty. A call of tools is not, and a tool's answer may have no text."""
    return not turn.content.strip() and isinstance(turn, Message) and turn.role != "tool"


def messages_of(name: str, value: object, notes: Notes) -> Turns:
    """Turns from messages of {role, content} or {from, value}, or from text that contains such messages. Empty system
    messages are left out."""
    if isinstance(value, str):
        written = written_messages(value)
        if written is None:
            raise RowProblem("wrong type", f"{name} should be a list of messages, found {shown(value)}")
        notes.reasons["messages read from JSON or Python text"] = name
        value = written
    items, alone = _items(name, value)
    turns = [_turn(name if alone else f"{name}[{place}]", item, notes) for place, item in enumerate(items, 1)]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def _items(name: str, value: object) -> tuple[list[Any], bool]:
    """The messages of a list, or of one message, and whether it is one."""
    if isinstance(value, dict) and not isinstance(value.get("role", value.get("from")), list):
        return [value], True
    return objects_of(name, value), False


def objects_of(name: str, value: object) -> list[Any]:
    """A list, which may be written as an object of lists (`datasets`' Sequence of a dict). Raises RowProblem."""
    if not isinstance(value, dict):
        return list_of(name, value)
    lists = {key: held for key, held in value.items() if held is not None}
    sizes = {len(held) if isinstance(held, list) else -1 for held in lists.values()}
    if len(sizes) != 1 or -1 in sizes:
        raise RowProblem("wrong type", f"{name} is an object whose lists are not equally long, {shown(value)}")
    return [dict(zip(lists, entry)) for entry in zip(*lists.values())]


def _turn(where: str, item: object, notes: Notes) -> Turn:
    if not isinstance(item, dict):
        raise RowProblem("wrong type", f"{where} should be a message, found {shown(item)}")
    # `is None`, not `in`: a table gives every message all the columns.
    written = item.get("from") if item.get("role") is None else item["role"]
    content = item.get("value") if item.get("content") is None else item["content"]
    if not isinstance(written, str):
        have = ", ".join(map(str, item)) or "nothing"
        raise RowProblem("wrong type", f"{where} should have role and content (or from and value), has {have}")
    role = ROLES.get(written.lower())
    if role is None:
        raise RowProblem("unknown role", f"{where} has the role '{written}'; known: {', '.join(ROLES)}")
    if len(item) > 2 or type(item) is not dict:
        _look_at_keys(where, item, role, notes)
    if written.lower() == "function_call":  # LLaMA-Factory's: the calls are the message's text
        return ToolMessage(role, "", _calls(where, parse_json(text_of(where, content), where)))
    if role == "tool":
        named = {name: item[name] for name in _OF_TOOLS["tool"] if isinstance(item.get(name), str)}
        if isinstance(content, dict):
            content = json.dumps(content, ensure_ascii=False)
        text = _content(where, content)
        return ToolMessage(role, text, json.dumps(named)) if named else Message(role, text)
    calls = item.get("tool_calls") or item.get("function_call")
    if calls:
        if role != "assistant":
            raise RowProblem("wrong type", f"{where} is the {role}'s and calls tools")
        return ToolMessage(role, _content(where, "" if content is None else content), _calls(where, calls))
    return Message(role, _content(where, content))


def _look_at_keys(where: str, item: Mapping[str, Any], role: str, notes: Notes) -> None:
    if isinstance(item, Doubled):
        notes.reasons["keys given twice"] = where
    for key, value in item.items():
        if key in _READ or key in _OF_TOOLS.get(role, ()) or not filled(value):
            continue
        if is_media(key):
            raise RowProblem("not text", f"{where} has {key}, and only text can be learned from")
        notes.leave_out(f"{key} of messages", where)


def _content(where: str, content: Any) -> str:
    """Text, or a list of parts that are all text."""
    if isinstance(content, list) and content and all(isinstance(part, (str, dict)) for part in content):
        kinds = [str(part.get("type")) for part in content if isinstance(part, dict)]
        if others := [kind for kind in kinds if not kind.endswith("text")]:
            raise RowProblem("not text", f"{where} has a part of the type '{others[0]}'; only text can be learned from")
        content = "".join(text_of(where, part if isinstance(part, str) else part.get("text")) for part in content)
    return text_of(f"the text of {where}", content)


def _calls(where: str, calls: object) -> str:
    """Calls of tools as chat templates take them, as JSON."""
    calls = parse_json(calls, where) if isinstance(calls, str) else calls
    listed = calls if isinstance(calls, list) else [calls]
    return json.dumps({"tool_calls": [_call(where, call) for call in listed]}, ensure_ascii=False)


def _call(where: str, call: object) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowProblem("wrong type", f"{where} should call tools by name and arguments, found {shown(call)}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):  # OpenAI's; templates write JSON of what they are given
        arguments = parse_json(arguments, where)
    if not isinstance(arguments, dict):
        raise RowProblem("wrong type", f"{where}: arguments of a call should be an object, found {shown(arguments)}")
    named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {"type": "function", **named, "function": {"name": function["name"], "arguments": arguments}}


def tools_of(row: Mapping[str, Any]) -> str:
    """The tools that the assistant may call, as JSON in transformers' form; empty without tools."""
    name = first_filled(row, TOOLS)
    tools = row[name] if name else None
    if isinstance(tools, str):
        tools = parse_json(tools, name) if tools.strip() else None
    if not tools:
        return ""
    whole = []
    for place, given in enumerate(tools if isinstance(tools, list) else [tools], 1):
        tool = parse_json(given, name) if isinstance(given, str) and "{" in given else given
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowProblem("wrong type", f"{name}[{place}] should be a tool with a name, found {shown(tool)}")
        whole.append({"type": "function", "function": tool} if tool is function else tool)
    return json.dumps(whole, ensure_ascii=False)


def for_template(tools: str) -> list[dict[str, Any]] | None:
    """The result of `tools_of` as chat templates take it."""
    return json.loads(tools) if tools else None


def text_of(name: str, value: object) -> str:
    """The value of a column that should be text. Raises RowProblem if it is not."""
    if not isinstance(value, str):
        raise RowProblem("wrong type", f"{name} should be text, found {shown(value)}")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell it, tokenizers cannot read it.
        broken = f"half a surrogate pair (\\u{ord(value[error.start]):04x})"
        raise RowProblem("wrong type", f"{name} holds {broken} at character {error.start}") from None
    return value


def list_of(name: str, value: object) -> list[Any]:
    """The value of a column that should be a list. Raises RowProblem if it is not."""
    if not isinstance(value, list):
        raise RowProblem("wrong type", f"{name} should be a list, found {shown(value)}")
    return value


def without_own_end(turn: Turn, notes: Notes) -> Turn:
    """The turn, of the assistant without the end-of-turn tokens that it brings."""
    return as_turn(completion_of(turn, notes)) if turn.role == "assistant" else turn


def completion_of(turn: Turn, notes: Notes) -> Completion:
    """The assistant's last turn as a completion, without end-of-turn tokens in its text."""
    text = without_end_tokens(turn.content)
    if text != turn.content:
        notes.reasons["end tokens taken off"] = f"ends with {turn.content[-20:].strip()}"
    return text if isinstance(turn, Message) else turn._replace(content=text)
