"""The columns of a row that are not read, and which of them may change what is meant."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

PROMPTS = ("conversations", "prompt", "instruction", "question")
"""Columns that hold the prompt; the first that is filled is read."""
SYSTEMS = ("system", "system_prompt", "system_message")
"""The same for the system message."""
TOOLS = ("tools", "functions")
"""The same for the tools that the assistant may call."""
COMPLETIONS = ("completion", "output", "response", "answer")
"""The same for the completion in instruction tuning."""

_WEIGHTY = re.compile(
    r"\b(tools?|toolcalls|calls?|functions?|history|dialog(ue)?s?|reasoning|thinking|thoughts?|rationale|cot|scratchpad|"
    r"images?|audios?|videos?|media|attachments?|files?|documents?|contexts?|passages?|knowledge|system|developer|"
    r"persona|instructions?|inputs?|constraints?|prefix|suffix|weights?|masked|mask|loss|train|labels?|margin|schema|"
    r"conversations?|messages|prompt|question|refusal|recipient|channel|examples|demonstrations|shots?|kwargs|template|"
    r"preferences?|preferred|winner|choice|better)\b"
)
_METADATA = re.compile(
    r"\b(ids?|uuid|counts?|lengths?|num|number|tokens|models?|sources?|hash|fingerprint|types?|version|names?|category|"
    r"date|time|timestamp|language|lang|index)\b"
)
"""Words in the names of columns and message keys without which text may mean something else, and words that say that
the column is about the text and no part of it."""
_MEDIA = re.compile(
    r"((chosen|rejected|prompt|input|query|question|user)[_-])?(image|img|picture|photo|audio|video)s?"
    r"([_-]?(url|uri|path|file|byte|base64|b64|data)s?)?|media|pixels|pixel_values|multi_?modal(_data)?|mm_data",
    re.I,
)
_RATING = re.compile(r"score|rating|reward|grade|quality", re.I)


class Layout(NamedTuple):
    """What the names of a row's columns say of those that are not read."""

    plain: tuple[str, ...]
    """Those that are about the row."""
    weighty: tuple[str, ...]
    """Those without which it may mean something else."""
    media: tuple[str, ...]
    """Pictures, sound and films."""
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
    """Whether a column, or the key of a message, of this name holds what no text model sees or hears."""
    return bool(_MEDIA.fullmatch(name))


@lru_cache(maxsize=4096)
def may_change_meaning(name: str) -> bool:
    """Whether text may mean something else without the column, or the key of a message, of this name."""
    words = re.sub(r"[^a-z]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return bool(_WEIGHTY.search(words)) and not _METADATA.search(words)


def first_filled(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of these columns that is not null; empty where none is."""
    for name in names:
        if row.get(name) is not None:
            return name
    return ""


def columns_read(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of a row that make its prompt."""
    prompt = first_filled(row, PROMPTS)
    beside = ("input", "history") if prompt == "instruction" else ("history",) if prompt else ()
    return (prompt, *beside, first_filled(row, SYSTEMS), first_filled(row, TOOLS))


def filled(value: object) -> bool:
    """Whether a column holds anything: a table gives every row all the columns."""
    return value is not None and value != "" and value != [] and value != {}
