"""Signs of a pair that is probably not as intended: contradicting ratings, and differences that nobody sees."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmpo_train.chat.columns import Layout
from mmpo_train.chat.messages import Completion, Turns, said_in
from mmpo_train.chat.problems import Notes, shown

_RATINGS = ("rating", "ratings", "scores")
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e01ef]"
)
"""Characters without a picture: zero-width spaces and joiners, soft hyphens, marks of direction, selectors."""
_MARKS = re.compile(r"<(?:\|\w+\||｜[^｜\n]+｜|(?:start|end)_of_turn|bos|eos|pad|[A-Z]+_TOKEN)>|\[(?:/?INST|gMASK)\]")
"""Chat templates' own."""
_AUTHOR = re.compile(r"\s*(?:#+ ?|<)?(?:assistant|response|bot|gpt)>?:", re.IGNORECASE)
_HEADER = re.compile(r"(?:\bassistant|#+ ?response|\bbot>?):\Z", re.IGNORECASE)
_PLACES = ("<image>", "<video>", "<audio>", "<|image|>", "<|image_pad|>")
_GLANCE = 200
"""Characters by which nearly all pairs can be told apart."""


def note_doubts(
    row: Mapping[str, Any], layout: Layout, prompt: Turns, completions: Sequence[Completion], notes: Notes
) -> None:
    """Note ratings that tie or are reversed, completions that nobody can see or tell from the chosen one, and what
    chat templates have left in the texts."""
    note_left_over([turn.content for turn in prompt], completions, notes)
    if rating := _rating_of(row, layout):
        one, other = rating
        if one < other:
            notes.reasons["chosen rated below rejected"] = f"chosen is rated {one}, rejected {other}"
        elif one == other:
            notes.reasons["chosen and rejected rated alike"] = f"both are rated {one}"
    texts = [said for said in completions if isinstance(said, str)]
    for text in texts:
        if text is not texts[0] and _alike(texts[0], text):
            notes.reasons["nothing visible to tell chosen from rejected"] = f"{texts[0][:20]!a} and {text[:20]!a}"


def note_left_over(asked: Sequence[str], completions: Sequence[Completion], notes: Notes) -> None:
    """Note answers that nobody can see, and what chat templates have left in the texts."""
    said = list(map(said_in, completions))
    for text, completion in zip(said, completions):
        if isinstance(completion, str) and not _visible(text[:_GLANCE]) and not _visible(text):
            notes.reasons["completion without a visible character"] = f"a completion is {text[:20]!a}"
    for text in (*asked, *said):
        if not ("<" in text or "[" in text):  # as most are
            continue
        if mark := _MARKS.search(text):
            notes.reasons["a chat template's marks in the text"] = f"a text holds {mark[0]}"
        if text.startswith(_PLACES) or text.endswith(_PLACES):
            notes.reasons["a place for a picture or sound"] = f"a text is {shown(text)}"
    ending = asked[-1][-_GLANCE:].rstrip() if asked else ""
    if ending.endswith(":") and (header := _HEADER.search(ending)):
        notes.reasons["a chat template's marks in the text"] = f"the prompt ends with {header[0]!r}"
    if named := next((found for found in map(_AUTHOR.match, said) if found), None):
        notes.reasons["completion begins with its author"] = f"a completion begins with {named[0].strip()!r}"


def _rating_of(row: Mapping[str, Any], layout: Layout) -> tuple[float, float] | None:
    """What the row's rating columns give chosen and rejected; None where they give no numbers."""
    for names in layout.rated:
        one, other = (_number(row[name]) for name in names)
        if one is not None and other is not None:
            return one, other
    listed: list[Any] = next((row[name] for name in _RATINGS if isinstance(row.get(name), list)), [])
    given = list(map(_number, listed))
    # Such lists stand in the order of another column, not of chosen and rejected: they can but show a tie.
    if len(given) == 2 and given[0] is not None and given[0] == given[1]:
        return given[0], given[0]
    return None


def _number(value: object) -> float | None:
    """A rating, which a CSV file has as text."""
    try:
        return None if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        return None


def _visible(text: str) -> str:
    """The text without what leaves no mark on paper, but for the white space inside."""
    return (text if text.isascii() else _UNSEEN.sub("", text)).strip()


def _alike(one: str, other: str) -> bool:
    """Whether two texts look the same: rarely more than the first of their letters is looked at."""
    if one[:1] != other[:1] and one[:1].isalnum() and other[:1].isalnum():
        return False
    begins, longer = sorted((_visible(one[:_GLANCE]), _visible(other[:_GLANCE])), key=len)
    return longer.startswith(begins) and _visible(one) == _visible(other)
