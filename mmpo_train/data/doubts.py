"""What makes one doubt a pair that can be read: ratings that say otherwise, and differences that nobody sees."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmpo_train.chat.columns import Layout
from mmpo_train.chat.messages import Completion
from mmpo_train.chat.problems import Notes

_RATINGS = ("rating", "ratings", "scores")
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e01ef]"
)
"""Characters without a picture: zero-width spaces and joiners, soft hyphens, marks of direction, selectors."""
_GLANCE = 200
"""Characters by which nearly all pairs can be told apart."""


def note_doubts(row: Mapping[str, Any], layout: Layout, completions: Sequence[Completion], notes: Notes) -> None:
    """Note ratings that tie or are reversed, and completions that nobody can see or tell from the chosen one."""
    if rating := _rating_of(row, layout):
        one, other = rating
        if one < other:
            notes.reasons["chosen rated below rejected"] = f"chosen is rated {one}, rejected {other}"
        elif one == other:
            notes.reasons["chosen and rejected rated alike"] = f"both are rated {one}"
    texts = [said for said in completions if isinstance(said, str)]
    for text in texts:
        if not _visible(text[:_GLANCE]) and not _visible(text):
            notes.reasons["completion without a visible character"] = f"a completion is {text[:20]!a}"
        if text is not texts[0] and _alike(texts[0], text):
            notes.reasons["nothing visible to tell chosen from rejected"] = f"{texts[0][:20]!a} and {text[:20]!a}"


def _rating_of(row: Mapping[str, Any], layout: Layout) -> tuple[float, float] | None:
    """What the row's rating columns give chosen and rejected; None where they give no numbers."""
    for names in layout.rated:
        one, other = (row[name] for name in names)
        if _is_number(one) and _is_number(other):
            return one, other
    given: list[Any] = next((row[name] for name in _RATINGS if isinstance(row.get(name), list)), [])
    # Such lists stand in the order of another column, not of chosen and rejected: they can but show a tie.
    if len(given) == 2 and all(map(_is_number, given)) and given[0] == given[1]:
        return given[0], given[1]
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _visible(text: str) -> str:
    """The text without what leaves no mark on paper, but for the white space inside."""
    return (text if text.isascii() else _UNSEEN.sub("", text)).strip()


def _alike(one: str, other: str) -> bool:
    """Whether two texts look the same: rarely more than the first of their letters is looked at."""
    if one[:1] != other[:1] and one[:1].isalnum() and other[:1].isalnum():
        return False
    begins, longer = sorted((_visible(one[:_GLANCE]), _visible(other[:_GLANCE])), key=len)
    return longer.startswith(begins) and _visible(one) == _visible(other)
