"""The names of columns: those that are read, and which of the others may change the meaning of a row."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

PROMPTS = ("conversations", "prompt", "instruction", "question")
"""Columns for the prompt; the first that is filled is read."""
SYSTEMS = ("system", "system_prompt", "system_message")
"""Columns for the system message; the first that is filled is read."""
TOOLS = ("tools", "functions")
"""Columns for the tools that the assistant may call; the first that is filled is read."""
COMPLETIONS = ("completion", "output", "response", "answer")
"""Columns for the completion in instruction tuning; the first that is filled is read."""

_WEIGHTY = re.compile(
    r"\b(tools?|toolcalls|calls?|functions?|history|dialog(ue)?s?|reasoning|thinking|thoughts?|rationale|cot|scratchpad|"
    r"images?|audios?|videos?|media|attachments?|files?|documents?|contexts?|passages?|knowledge|system|developer|"
    r"persona|instructions?|inputs?|constraints?|prefix|suffix|weights?|masked|mask|loss|train|labels?|margin|schema|"
    r"conversations?|messages|prompt|question|refusal|recipient|channel|examples|demonstrations|shots?|kwargs|template|"
    r"preferences?|preferred|winner|choice|better)\b"
)
_METADATA = re.compile(
    r"\b(ids?|uuid|counts?|lengths?|num|number|tokens|models?|sources?|hash|fingerprint|types?|version|names?|category|"
    r"date|time|timestamp|language|lang|index|repeated)\b"
)
"""Words in the names of columns and message keys: those of content that may change the meaning of a row, and those of
metadata about it."""
_MEDIA = re.compile(
    r"((chosen|rejected|prompt|input|query|question|user)[_-])?(image|img|picture|photo|audio|video)s?"
    r"([_-]?(url|uri|path|file|byte|base64|b64|data)s?)?|media|pixels|pixel_values|multi_?modal(_data)?|mm_data",
    re.I,
)
_RATING = re.compile(r"score|rating|reward|grade|quality", re.I)


class Layout(NamedTuple):
    """The columns of a row that are not read, classified by name."""

    plain: tuple[str, ...]
    """Columns with metadata."""
    weighty: tuple[str, ...]
    """Columns that may change the meaning of the row."""
    media: tuple[str, ...]
    """Columns with images, sound or video."""
    rated: tuple[tuple[str, str], ...]
    """Pairs of columns that rate chosen and rejected."""


@lru_cache(maxsize=1024)
def layout_of(names: tuple[str, ...], read: tuple[str, ...]) -> Layout:
    """The layout of a row with the columns `names`, of which those in `read` are used."""
    others = [name for name in names if name not in read]
    media = tuple(filter(is_media, others))
    weighty = tuple(name for name in others if may_change_meaning(name) and name not in media)
    plain = tuple(name for name in others if name not in media and name not in weighty)
    twins = [(name, name.replace("chosen", "rejected")) for name in names if "chosen" in name and _RATING.search(name)]
    return Layout(plain, weighty, media, tuple((one, other) for one, other in twins if other in names))


def is_media(name: str) -> bool:
    """Whether a column or message key of this name contains images, sound or video."""
    return bool(_MEDIA.fullmatch(name))


@lru_cache(maxsize=4096)
def may_change_meaning(name: str) -> bool:
    """Whether a column or message key of this name may change the meaning of a row."""
    words = re.sub(r"[^a-z]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return bool(_WEIGHTY.search(words)) and not _METADATA.search(words)


def first_filled(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of these columns that is not null; empty if all are null."""
    for name in names:
        if row.get(name) is not None:
            return name
    return ""


def columns_read(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a row that make up its prompt."""
    prompt = first_filled(row, PROMPTS)
    beside = ("input", "history") if prompt == "instruction" else ("history",) if prompt else ()
    return (prompt, *beside, first_filled(row, SYSTEMS), first_filled(row, TOOLS))


def filled(value: object) -> bool:
    """Whether a column has content; a table gives every row all columns."""
    return value is not None and value != "" and value != [] and value != {}
