"""The boundary between prompt and completion: completion columns may repeat, continue or contain the whole prompt."""

from mmpo_train.chat.messages import Completion, Message, Turns, completion_of, messages_of, text_of
from mmpo_train.chat.problems import Notes, RowProblem, shown
from mmpo_train.chat.prompts import turns_in
from mmpo_train.chat.texts import may_spell_turns

ASKS = ("user", "tool")
"""Roles whose turns the assistant answers."""


def conversation(name: str, value: object, given: Turns | None, notes: Notes) -> tuple[Turns, Completion]:
    """The turns before the completion in column `name` (often none), and the completion."""
    if isinstance(value, str):
        text = text_of(name, value)
        turns = _spelled(name, text, given, notes) if may_spell_turns(text) else ()
        turns = turns or (Message("assistant", text),)
    elif isinstance(value, (list, dict)):
        turns = messages_of(name, value, notes)
    else:
        raise RowProblem("wrong type", f"{name} should be text or messages, found {shown(value)}")
    if not turns:
        raise RowProblem("empty completion", f"{name} holds no message")
    if turns[-1].role != "assistant":
        raise RowProblem("completion is not an assistant turn", f"{name} ends with a turn of the {turns[-1].role}")
    return turns[:-1], completion_of(turns[-1], notes)


def _spelled(name: str, text: str, given: Turns | None, notes: Notes) -> Turns:
    """The turns in the text of column `name`; empty if the text is the completion itself. Without a prompt column the
    text must be a transcript that contains the prompt. With one it is a transcript only if it repeats the prompt or has
    a chat template's tokens, since a completion may well be a dialogue."""
    turns = turns_in(name, text, notes, spoken=given is None)
    if turns or given is None or not (spoken := turns_in(name, text, Notes())):
        return turns
    if any(turn.content.strip() == given[-1].content.strip() for turn in spoken):
        notes.reasons["turns read from a transcript"] = name
        return spoken
    notes.reasons["completion reads like a transcript"] = f"{name} begins {shown(text)}"
    return ()


def join(given: Turns | None, head: Turns) -> Turns:
    """The prompt from the prompt column and the turns that chosen (or rejected) repeats or adds.

    If both exist the turns are used, provided that the prompt column has nothing else: it must be their beginning, one
    of them, or a rendering of all of them as text. Anything else could be context, which must not be lost silently.
    Turns that begin with the assistant continue the prompt.
    """
    blank = given is None or not any(message.content.strip() for message in given)
    if blank or not given or not head:
        return head or given or ()
    spoken = tuple(message for message in given if message.role != "system")
    repeated = tuple(message for message in head if message.role != "system")[: len(spoken)] == spoken
    if not repeated and len(given) == 1:
        text = given[0].content.strip()
        repeated = any(text == turn.content.strip() for turn in head)
        repeated = repeated or (len(head) > 1 and all(turn.content.strip() in text for turn in head))
    if repeated:
        return head if head[0].role == "system" or given[0].role != "system" else (given[0], *head)
    if head[0].role == "assistant" and given[-1].role in ASKS:
        return (*given, *head)
    detail = "the prompt column is not among the turns before the completion: " + first_difference(given, head)
    raise RowProblem("prompts of chosen and rejected differ", detail)


def first_difference(one: Turns, other: Turns) -> str:
    """The first difference between two prompts, in words."""
    for place, (left, right) in enumerate(zip(one, other), 1):
        if left != right:
            return f"turn {place} is {left.role} {shown(left.content)} and {right.role} {shown(right.content)}"
    return f"{len(one)} and {len(other)} turns"
