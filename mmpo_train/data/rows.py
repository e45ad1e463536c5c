"""One row of a preference dataset -> a prompt and its completions, the best first.

Understood, told apart row by row:

    pair        prompt + chosen + rejected, each text or {role, content} messages; these two may hold
                the whole conversation or only the last turn (UltraFeedback, Orca, TRL's two forms)
    ShareGPT    conversations of {from, value} + chosen + rejected
    ranked      prompt + answers of {answer, rank} (Nectar), or prompt + completions + ranks; rank 1 is best
    transcript  chosen + rejected, each "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf)
    in place of prompt: instruction (+ input), or question; beside any of them: system

A completion is the last assistant turn; everything before it is the prompt. Text is kept as it stands.
"""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

PROMPT_COLUMNS = ("prompt", "conversations", "instruction", "question")

# The spellings of a turn's author, OpenAI's and ShareGPT's.
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}

Severity = Literal["malformed", "bad", "unusable"]

# malformed: not in any format above. bad: a slip in the data.
# unusable: well formed, but no preference to learn from.
REASONS: dict[str, Severity] = {
    "unreadable row": "malformed",
    "not an object": "malformed",
    "missing column": "malformed",
    "wrong type": "malformed",
    "empty prompt": "bad",
    "empty completion": "bad",
    "chosen equals rejected": "bad",
    "prompts of chosen and rejected differ": "unusable",
    "prompt does not end with a user turn": "unusable",
    "completion is not an assistant turn": "unusable",
    "unknown role": "unusable",
    "nothing ranked below the chosen": "unusable",
    "exact duplicate": "unusable",
}


class Message(NamedTuple):
    role: str
    """system, user or assistant"""
    content: str


Turns = tuple[Message, ...]


@dataclass(frozen=True)
class PreferenceExample:
    prompt: Turns
    """Ends with a user message."""
    completions: tuple[str, ...]
    """K >= 2: the chosen one, then the others from best to worst; equal ranks as in the row."""
    source: str
    """Where it came from, for messages: `pairs.json`, `owner/name:train_prefs`."""
    row: int
    """1-based: element of a JSON list, line of a JSONL file, row of a table (the header not counted)."""


class RowProblem(Exception):
    """Why a row cannot be used: `reason` is a key of REASONS, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    @property
    def severity(self) -> Severity:
        return REASONS[self.reason]


def parse_row(value: object, negatives_from_rank: int = 2) -> tuple[Turns, tuple[str, ...], int]:
    """Prompt and completions of one row, the chosen one first, and the number of ranked answers left out.

    Of ranked answers those above `negatives_from_rank`, as seen from the best, are left out: 3 leaves out rank 2.
    The lowest rank always stays. Raises RowProblem if no preference is left.
    """
    if not isinstance(value, dict):
        raise RowProblem("not an object", f"expected an object with named columns, found {_shown(value)}")
    row = {name: column for name, column in value.items() if isinstance(name, str)}
    compared = row.get("chosen") is not None or row.get("rejected") is not None
    ranked = not compared and (row.get("answers") is not None or row.get("completions") is not None)
    return _ranked_row(row, negatives_from_rank) if ranked else (*_pair_row(row), 0)


def _pair_row(row: dict[str, Any]) -> tuple[Turns, tuple[str, ...]]:
    given = given_prompt(row)
    missing = [name for name in ("chosen", "rejected") if row.get(name) is None]
    if given is None and not any(_holds_conversation(row.get(name)) for name in ("chosen", "rejected")):
        missing.insert(0, "prompt")
    if missing:
        raise _missing_columns(row, missing)
    chosen_head, chosen = _conversation(row, "chosen", whole=given is None)
    rejected_head, rejected = _conversation(row, "rejected", whole=given is None)
    prompt, other = _join(row, given, chosen_head), _join(row, given, rejected_head)
    if prompt != other:
        raise RowProblem("prompts of chosen and rejected differ", _first_difference(prompt, other))
    _check_prompt(prompt)
    for name, completion in (("chosen", chosen), ("rejected", rejected)):
        _check_completion(name, completion)
    if chosen == rejected:
        raise RowProblem("chosen equals rejected", f"chosen and rejected are the same text, {_shown(chosen)}")
    return prompt, (chosen, rejected)


def _ranked_row(row: dict[str, Any], negatives_from_rank: int) -> tuple[Turns, tuple[str, ...], int]:
    """The best answer, then those ranked lower; an answer tied with the best, or equal to it, is left out."""
    given = given_prompt(row)
    missing = ["prompt"] if given is None else []
    if row.get("answers") is None and row.get("ranks") is None:
        missing.append("ranks")
    if missing:
        raise _missing_columns(row, missing)
    assert given is not None
    prompt = _join(row, given, ())
    _check_prompt(prompt)
    ranking = sorted(_rankings(row), key=lambda ranking: ranking[0])
    if not ranking:
        raise RowProblem("nothing ranked below the chosen", "there are no answers")
    best, chosen = ranking[0]
    lower = [(rank, text) for rank, text in ranking if rank > best and text != chosen]
    for number, (_, completion) in enumerate([(best, chosen), *lower], 1):
        _check_completion(f"the answer in place {number}", completion)
    if not lower:
        raise RowProblem("nothing ranked below the chosen", f"all {len(ranking)} answers tie at rank {best:g}")
    # From the best's rank, not from 1: some data count from 0, and some had rank 2 removed before.
    highest = min(best - 1 + negatives_from_rank, lower[-1][0])
    completions = (chosen, *(text for rank, text in lower if rank >= highest))
    return prompt, completions, len(ranking) - len(completions)


def _rankings(row: dict[str, Any]) -> list[tuple[float, str]]:
    if row.get("answers") is not None:
        answers = _list("answers", row["answers"])
        for place, answer in enumerate(answers, 1):
            if not isinstance(answer, dict) or answer.get("answer") is None or answer.get("rank") is None:
                raise RowProblem(
                    "wrong type",
                    f"answers[{place}]: expected an object with answer and rank, found {_shown(answer)}",
                )
        texts, ranks = [answer["answer"] for answer in answers], [answer["rank"] for answer in answers]
    else:
        texts, ranks = _list("completions", row["completions"]), _list("ranks", row["ranks"])
        if len(texts) != len(ranks):
            raise RowProblem("wrong type", f"{len(texts)} completions but {len(ranks)} ranks")
    for place, rank in enumerate(ranks, 1):
        if isinstance(rank, bool) or not isinstance(rank, (int, float)) or not math.isfinite(rank):
            raise RowProblem("wrong type", f"rank {place} should be a number (1 is best), found {_shown(rank)}")
    return [(rank, text_of(f"answer {place}", text)) for place, (rank, text) in enumerate(zip(ranks, texts), 1)]


def given_prompt(row: dict[str, Any]) -> Turns | None:
    """The prompt of the row's own prompt columns; None where none of them is filled."""
    if row.get("conversations") is not None:
        return messages_of("conversations", row["conversations"])
    prompt = row.get("prompt")
    if isinstance(prompt, (list, dict)):
        return messages_of("prompt", prompt)
    if prompt is not None:
        text = text_of("prompt", prompt)
        turns = _transcript(text) or (Message("user", text),)
        asked = turns[-1].role == "assistant" and not turns[-1].content.strip()
        return turns[:-1] if asked else turns
    if row.get("instruction") is not None:
        text = text_of("instruction", row["instruction"])
        extra = text_of("input", row.get("input") or "")
        return (Message("user", f"{text}\n{extra}" if extra.strip() else text),)
    if row.get("question") is not None:
        return (Message("user", text_of("question", row["question"])),)
    return None


def _conversation(row: dict[str, Any], name: str, *, whole: bool) -> tuple[Turns, str]:
    """The turns before the completion in column `name` (often none), and the completion.

    `whole` says that the column must hold the prompt too, so that text is read as a transcript (hh-rlhf).
    """
    value = row[name]
    if isinstance(value, str):
        text = text_of(name, value)
        turns = (_transcript(text) if whole else ()) or (Message("assistant", text),)
    elif isinstance(value, (list, dict)):
        turns = messages_of(name, value)
    else:
        raise RowProblem("wrong type", f"{name} should be text or messages, found {_shown(value)}")
    if not turns:
        raise RowProblem("empty completion", f"{name} holds no message")
    if turns[-1].role != "assistant":
        raise RowProblem("completion is not an assistant turn", f"{name} ends with a turn of the {turns[-1].role}")
    return turns[:-1], turns[-1].content


def _join(row: dict[str, Any], given: Turns | None, head: Turns) -> Turns:
    """The prompt from the row's prompt column and the turns that chosen (or rejected) repeats or adds.

    The turns win where both exist, if the prompt column says nothing else: it must be their beginning, one of
    them, or a rendering of them all as text. Otherwise it could be context that would be lost unseen.
    """
    blank = given is None or not any(message.content.strip() for message in given)
    if blank or not given or not head:
        turns = head or given or ()
    else:
        spoken = tuple(message for message in given if message.role != "system")
        repeated = tuple(message for message in head if message.role != "system")[: len(spoken)] == spoken
        if not repeated and len(given) == 1:
            text = given[0].content.strip()
            repeated = any(text == turn.content.strip() for turn in head)
            repeated = repeated or (len(head) > 1 and all(turn.content.strip() in text for turn in head))
        if not repeated:
            detail = "the prompt column is not among the turns before the completion: " + _first_difference(given, head)
            raise RowProblem("prompts of chosen and rejected differ", detail)
        turns = head if head[0].role == "system" or given[0].role != "system" else (given[0], *head)
    system = text_of("system", row.get("system") or "")
    if system.strip() and not (turns and turns[0].role == "system"):
        turns = (Message("system", system), *turns)
    return turns


def _check_prompt(prompt: Turns) -> None:
    if not any(message.role != "system" for message in prompt):
        raise RowProblem("empty prompt", "the prompt holds no turn of the user")
    for place, message in enumerate(prompt, 1):
        if not message.content.strip():
            which = "the prompt" if len(prompt) == 1 else f"turn {place} of the prompt ({message.role})"
            raise RowProblem("empty prompt", f"{which} is empty")
    if prompt[-1].role != "user":
        detail = f"the prompt ends with a turn of the {prompt[-1].role}, {_shown(prompt[-1].content)}"
        raise RowProblem("prompt does not end with a user turn", detail)


def _check_completion(name: str, completion: str) -> None:
    if not completion.strip():
        raise RowProblem("empty completion", f"{name} is empty")


def messages_of(name: str, value: object) -> Turns:
    """Messages of {role, content} or {from, value}; system messages without text are left out."""
    items = [value] if isinstance(value, dict) else _list(name, value)
    found = []
    for place, item in enumerate(items, 1):
        where = name if isinstance(value, dict) else f"{name}[{place}]"
        if not isinstance(item, dict):
            raise RowProblem("wrong type", f"{where} should be a message, found {_shown(item)}")
        # `is None`, not `in`: a table gives every message all the columns.
        role = item.get("from") if item.get("role") is None else item["role"]
        content = item.get("value") if item.get("content") is None else item["content"]
        if not isinstance(role, str):
            have = ", ".join(map(str, item)) or "nothing"
            raise RowProblem("wrong type", f"{where} should have role and content (or from and value), has {have}")
        found.append((where, role, content))
    # Roles first: a call of a tool has no text either, and is unusable rather than malformed.
    for where, role, _ in found:
        if role.lower() not in ROLES:
            raise RowProblem("unknown role", f"{where} has the role '{role}'; known: {', '.join(ROLES)}")
    turns = [Message(ROLES[role.lower()], text_of(f"the text of {where}", content)) for where, role, content in found]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def _transcript(text: str) -> Turns:
    r"""The turns of "\n\nHuman: ...\n\nAssistant: ..." (Nectar, hh-rlhf); () for any other text."""
    if not text.startswith("\n\nHuman:"):
        return ()
    _, *pieces = re.split(r"\n\n(Human|Assistant):[ ]?", text)
    roles = ("user" if speaker == "Human" else "assistant" for speaker in pieces[::2])
    return tuple(Message(role, content) for role, content in zip(roles, pieces[1::2]))


def _holds_conversation(value: object) -> bool:
    if isinstance(value, str):
        return bool(_transcript(value))
    return isinstance(value, list) and len(value) > 1


def text_of(name: str, value: object) -> str:
    """The value of a column that should hold text. Raises RowProblem where it is none."""
    if not isinstance(value, str):
        raise RowProblem("wrong type", f"{name} should be text, found {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell it, tokenizers cannot read it.
        broken = f"half a surrogate pair (\\u{ord(value[error.start]):04x})"
        raise RowProblem("wrong type", f"{name} holds {broken} at character {error.start}") from None
    return value


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise RowProblem("wrong type", f"{name} should be a list, found {_shown(value)}")
    return value


def _missing_columns(row: dict[str, Any], names: Sequence[str]) -> RowProblem:
    """Names what is missing, what is there, and columns whose names come near."""
    others = {column.strip().lower(): column for column in row if column not in (*PROMPT_COLUMNS, "chosen", "rejected")}
    wanted = []
    for name in names:
        near = difflib.get_close_matches(name, others, n=1) or [column for column in others if name in column]
        hint = f" (did you mean '{others[near[0]]}'?)" if near else ""
        wanted.append(f"'{name}' is null" if name in row else f"no '{name}'{hint}")
    columns = ", ".join(list(row)[:12]) + (", ..." if len(row) > 12 else "")
    return RowProblem("missing column", f"{', '.join(wanted)}; columns: {columns or 'none'}")


def _first_difference(one: Turns, other: Turns) -> str:
    for place, (left, right) in enumerate(zip(one, other), 1):
        if left != right:
            return f"turn {place} is {left.role} {_shown(left.content)} and {right.role} {_shown(right.content)}"
    return f"{len(one)} and {len(other)} turns"


def _shown(value: object) -> str:
    kinds = {
        str: "",
        dict: "an object ",
        list: "a list ",
        bool: "a boolean ",
        int: "a number ",
        float: "a number ",
    }
    text = repr(value)
    return kinds.get(type(value), "") + (text if len(text) <= 40 else text[:37] + "...")
