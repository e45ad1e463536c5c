"""Conventions that only a whole file shows, not a single row: completions that repeat the prompt, or imply it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmpo_train.chat.columns import PROMPTS, SYSTEMS, first_filled
from mmpo_train.chat.messages import Completion, Turns, said_in
from mmpo_train.chat.problems import Notes, shown
from mmpo_train.chat.prompts import turns_in

PAIR = ("chosen", "rejected")
LOOKED_AT = 200
"""Number of rows at the beginning of a file from which its conventions are found."""
_BEFORE = 400
"""Characters of a template that may stand before a prompt that is repeated."""


class Habits(NamedTuple):
    """Conventions that most rows of a file follow."""

    repeats_prompt: bool = False
    """Completions begin with their prompt."""
    implies_prompt: bool = False
    """The prompt is the common beginning of chosen and rejected (TRL's implicit prompt)."""


NO_HABITS = Habits()


def habits_of(rows: Sequence[object], completions: Sequence[str] = PAIR) -> Habits:
    """The conventions of more than half of the rows that have text in one of the columns `completions`."""
    found = []
    for row in rows:
        if isinstance(row, dict) and (said := [row[name] for name in completions if isinstance(row.get(name), str)]):
            prompt = row.get(first_filled(row, PROMPTS))
            asked = prompt.strip() if isinstance(prompt, str) else ""
            implied = len(said) == 2 and bool(implied_prompt(row))
            found.append((bool(asked) and all(_begins_with(text, asked) for text in said), implied))
    repeat, imply = (sum(column) for column in zip(*found)) if found else (0, 0)
    return Habits(2 * repeat > len(found), 2 * imply > len(found))


def implied_prompt(row: Mapping[str, Any]) -> str:
    """The whole words with which both chosen and rejected begin; empty if another column can be the prompt."""
    chosen, rejected = (row.get(name) for name in PAIR)
    others = (value for name, value in row.items() if name not in (*PAIR, *SYSTEMS))
    if any(name in row for name in PROMPTS) or any(isinstance(value, str) and " " in value for value in others):
        return ""
    if not isinstance(chosen, str) or not isinstance(rejected, str) or turns_in("chosen", chosen, Notes()):
        return ""
    alike = next((place for place, (one, other) in enumerate(zip(chosen, rejected)) if one != other), 0)
    words = re.match(r".*\s", chosen[:alike], re.DOTALL)
    return words[0].rstrip() if words else ""


def without_prompt(
    prompt: Turns, completions: Sequence[Completion], habits: Habits, notes: Notes
) -> tuple[Completion, ...]:
    """The completions, without the prompt at their beginning if that is the file's convention."""
    asked = prompt[-1].content.strip()
    repeat = [isinstance(said, str) and _begins_with(said, asked) for said in completions]
    if habits.repeats_prompt and any(repeat):
        notes.reasons["prompt taken off the completions"] = f"they begin with {shown(asked)}"
        return tuple(
            said[len(asked) :].lstrip() if again and isinstance(said, str) else said
            for said, again in zip(completions, repeat)
        )
    # Fewer words begin many an answer; a template may stand before the prompt.
    if asked.count(" ") > 1 and any(_holds(said_in(said), asked) for said in completions):
        notes.reasons["completion repeats the prompt"] = f"it holds {shown(asked)}"
    return tuple(completions)


def _begins_with(text: str, asked: str) -> bool:
    """Whether the text is the prompt and more, which begins another word."""
    behind = text[len(asked) : len(asked) + 1]
    return text.startswith(asked) and (behind.isspace() or bool(behind) and not asked[-1:].isalnum())


def _holds(text: str, asked: str) -> bool:
    return text.find(asked, 0, len(asked) + _BEFORE) >= 0
