"""Text that contains messages: JSON, Python literals, transcripts; and end-of-turn tokens in text."""

import ast
import json
import re
from typing import Any

from mmpo_train.chat.problems import RowProblem, shown

_SPELLINGS = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "model", "chatbot"),
    "tool": ("tool", "function", "observation", "ipython"),
}
ROLES = {spelling: role for role, some in _SPELLINGS.items() for spelling in some} | {"function_call": "assistant"}
"""The spellings of a turn's author: OpenAI's, ShareGPT's, Gemma's, Cohere's, OpenAssistant's, LLaMA-Factory's."""
END_TOKENS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<|end_of_turn|>"),
    *("<end_of_turn>", "<eos>", "</s>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|eot|>", "<|return|>"),
    *("<pad>", "<|pad|>", "[PAD]", "<EOS>", "[EOS]"),
)
"""With which chat templates close a turn, and what fills a row of a batch behind it."""
_BEGINNINGS = ("<s>", "<bos>", "<|begin_of_text|>", "<BOS_TOKEN>", "<｜begin▁of▁sentence｜>", "[gMASK]<sop>")
_LONGEST_END = 40
# How messages begin as written by `json.dumps` and `repr`; the author may follow a long text.
_OPENS = re.compile(r"""["']?\s*(?:array\()?(\[\s*)?\{\s*\\?["']\w+\\?["']\s*:""")
_NAMES_AN_AUTHOR = re.compile(rf"""["'](role|from)\\?["']\s*:\s*\\?["']({"|".join(ROLES)})\\?["']""", re.IGNORECASE)
_SAYS = ("content", "value", "tool_calls", "function_call")

_NUMPY = re.compile(r"array\((\[.*\])(?:,\s*dtype=object)?\)", re.DOTALL)
_NO_COMMA = re.compile(r"\}\s*\n\s*\{")
"""How numpy, and so a data frame's CSV, prints an array of objects."""
_PREAMBLES = ("Below is an instruction that describes", "A chat between a")
"""With which Alpaca's and Vicuna's transcripts begin."""
_MAY_BEGIN_TURNS = frozenset("<[{\"'HhUu# \t\r\n")


class Doubled(dict[str, Any]):
    """A JSON object that gives a key twice; the last counts, as for `json.loads`."""


def parse_json(text: str, name: str = "") -> Any:
    """The value of a JSON text. Raises RowProblem for broken JSON, and for numbers or nesting beyond Python's limits.
    `name` is the column of the text; empty if the text is the whole row."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        reason, where = ("wrong type", f"{name} holds ") if name else ("unreadable row", "")
        raise RowProblem(reason, where + json_problem(error)) from None


def json_problem(error: Exception) -> str:
    """The reason why JSON could not be read, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON at column {error.colno}: {error.msg}"
    if isinstance(error, RecursionError):
        return "JSON with brackets nested too deeply"
    return "JSON with a number of thousands of digits"  # the one other ValueError of `json`


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Doubled(found)


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def may_spell_turns(text: str) -> bool:
    """A quick check by the first character: False if the text cannot be messages or a transcript, as most texts."""
    return text[:1] in _MAY_BEGIN_TURNS or text.startswith((*_PREAMBLES, "array("))


def written_messages(text: str) -> Any:
    """The messages (a list or an object) in a text of JSON or a Python literal; None for other text. Raises RowProblem
    if the text begins like a list of messages and cannot be read."""
    opening = _OPENS.match(text.lstrip())
    if not opening or not _NAMES_AN_AUTHOR.search(text):
        return None
    for read in (parse_json, _json_lines, _literal):
        try:
            value = read(text.strip())
            value = parse_json(value) if isinstance(value, str) else value
        except (RowProblem, ValueError, SyntaxError, RecursionError, MemoryError):
            continue  # `ast` says MemoryError where brackets are nested too deeply
        return value if _are_messages(value) else None
    if opening[1] is None or _begins_with_json(text):  # somebody's example, and words about it
        return None
    raise RowProblem(
        "wrong type", f"messages as text that cannot be read, {shown(text)}: save them as lists of objects"
    )


def _literal(text: str) -> Any:
    array = _NUMPY.fullmatch(text)
    return ast.literal_eval(_NO_COMMA.sub("}, {", array[1] if array else text))


def _json_lines(text: str) -> Any:
    return [parse_json(line) for line in text.split("\n")]


def _begins_with_json(text: str) -> bool:
    try:
        DECODER.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return True


def _are_messages(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(
        isinstance(item, dict)
        and str(item.get("role", item.get("from"))).lower() in ROLES
        and any(name in item for name in _SAYS)
        for item in items
    )


_SPOKEN = re.compile(r"\n\n(Human|Assistant):[ ]?")
_WRITTEN = (
    re.compile(r"(?i:(?:^|\n)[ ]*(?:\#+ ?)?(Human|User|Assistant):[ ]?)"),
    re.compile(r"(?:^|\n)\#+ ?(Instruction|Input|Response):[ ]?"),
    re.compile(r"(?:^|\s|</s>)(USER|ASSISTANT):[ ]?"),
)
_OPENINGS = (
    re.compile(r"<\|im_start\|>(\w+)\n"),
    re.compile(r"<\|(?:start_header_id|header_start)\|>(\w+)<\|(?:end_header_id|header_end)\|>"),
    re.compile(r"<start_of_turn>(\w+)\n"),
    re.compile(r"<\|(system|user|assistant)\|>\n?"),
    re.compile(r"<｜(User|Assistant)｜>"),
    re.compile(r"<\|START_OF_TURN_TOKEN\|><\|(SYSTEM|USER|CHATBOT)_TOKEN\|>"),
)
_INSTRUCTION = re.compile(r"\[/?INST\]")


def spoken_turns(text: str) -> list[tuple[str, str]]:
    r"""Authors and turns of a transcript such as "\n\nHuman: ...\n\nAssistant: ..." (hh-rlhf); empty for other text."""
    if text.startswith("\n\nHuman:"):
        _, *pieces = _SPOKEN.split(text)
        return _by_author(pieces)
    for mark in _WRITTEN:
        before, *pieces = map(str.strip, mark.split(text))
        if len(pieces) > 3 and pieces[0][0] in "HhUuI" and (not before or before.startswith(_PREAMBLES)):
            return ([("system", before)] if before else []) + _by_author(pieces)
    return []


def _by_author(pieces: list[str]) -> list[tuple[str, str]]:
    """Names and texts by turns; what stands behind Alpaca's instruction as its input belongs to it."""
    turns: list[tuple[str, str]] = []
    for name, said in zip(pieces[::2], pieces[1::2]):
        if name == "Input" and turns:
            turns[-1] = "user", f"{turns[-1][1]}\n{said}"
        else:
            turns.append(("assistant" if name[0] in "aAR" else "user", said))
    return turns


def marked_turns(text: str) -> list[tuple[str, str]]:
    """Authors and turns of a text that a chat template has rendered; empty for other text. The last turn may be the
    assistant's and empty: the completion follows."""
    if text[:40].lstrip()[:1] not in ("<", "["):
        return []
    for opening in _OPENINGS:
        before, *pieces = opening.split(text)
        if pieces and before.strip() in ("", *_BEGINNINGS):
            return [(who, without_end_tokens(said).strip()) for who, said in zip(pieces[::2], pieces[1::2])]
    before, *pieces = _INSTRUCTION.split(text)
    if len(pieces) < 2 or before.strip() not in ("", *_BEGINNINGS):
        return []
    system, found, first = pieces[0].partition("<</SYS>>")
    turns = [("system", system.replace("<<SYS>>", "").strip())] if found else []
    said = [first if found else system, *pieces[1:]]
    return turns + [
        ("assistant" if place % 2 else "user", without_end_tokens(piece.strip().removesuffix("<s>")).strip())
        for place, piece in enumerate(said)
    ]


def without_end_tokens(text: str) -> str:
    """The text without the end-of-turn tokens that it ends with, and then without the BOS in front, and the white space
    around them."""
    if text[-1:] not in (">", "]", "\n", " "):
        return text
    ended = text
    while ended[-_LONGEST_END:].rstrip().endswith(END_TOKENS):
        kept = ended.rstrip()
        if kept.endswith("</s>") and "<s>" in kept[1:]:  # HTML's, for text that is crossed out
            break
        ended = kept.removesuffix(next(token for token in END_TOKENS if kept.endswith(token))).rstrip()
    begun = next((token for token in _BEGINNINGS if ended.startswith(token)), "") if ended != text else ""
    return ended[len(begun) :].lstrip() if begun else ended
