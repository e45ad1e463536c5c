"""The prompt and the completions, best first, of one row of a preference dataset.

Each row may have any of these forms:

    pair        prompt + chosen + rejected, each text or {role, content} messages; chosen and rejected may be
                the whole conversation or only its last turns (UltraFeedback, Orca, TRL's forms)
    ShareGPT    conversations of {from, value} + chosen + rejected
    ranked      prompt + answers of {answer, rank} (Nectar), or prompt + completions + ranks; rank 1 is best
    transcript  chosen + rejected, each "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf) or a chat template's text
    instead of prompt: instruction (+ input), or question; besides any of them: system, history, tools

A completion is the last assistant turn; everything before it is the prompt. Text is kept unchanged unless it contains
messages, repeats the prompt or ends with end-of-turn tokens; the audit counts such rows.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmpo_train.chat.columns import PROMPTS, columns_read, filled, layout_of
from mmpo_train.chat.completions import ASKS, conversation, first_difference, join
from mmpo_train.chat.doubts import note_doubts
from mmpo_train.chat.habits import NO_HABITS, PAIR, Habits, implied_prompt, without_prompt
from mmpo_train.chat.messages import (
    Completion,
    Message,
    Turns,
    is_empty,
    list_of,
    objects_of,
    said_in,
    tools_of,
    without_own_end,
)
from mmpo_train.chat.problems import Notes, RowProblem, shown
from mmpo_train.chat.prompts import given_prompt, note_unread, turns_in, with_system
from mmpo_train.chat.texts import Doubled


@dataclass(frozen=True)
class PreferenceExample:
    prompt: Turns
    """Ends with a turn of the user, or of a tool."""
    completions: tuple[Completion, ...]
    """K >= 2: the chosen one, then the others from best to worst; equal ranks as in the row."""
    source: str
    """Its source, for messages: `pairs.json`, `owner/name:train_prefs`."""
    row: int
    """1-based: element of a JSON list, line of a JSONL file, row of a table (the header not counted)."""
    tools: str = ""
    """The tools that the assistant may call, as JSON; empty without tools."""


class ParsedRow(NamedTuple):
    prompt: Turns
    completions: tuple[Completion, ...]
    """The chosen one first."""
    tools: str
    """The tools, as in PreferenceExample."""
    left_out: int
    """Number of ranked answers that are not completions."""
    notes: Notes


_ANSWERS = ("answers", "completions")
_LIKE_PROMPTS = ("messages", "input", "inputs", "query", "user", "user_prompt", "problem", "text", "context")
"""Columns that contain the prompt in some data, and other things in others."""


def parse_row(value: object, negatives_from_rank: int = 2, habits: Habits = NO_HABITS) -> ParsedRow:
    """Prompt and completions of one row.

    Ranked answers above `negatives_from_rank` are left out, except those of the lowest rank: 3 leaves out rank 2.
    Raises RowProblem if no preference is left.
    """
    if not isinstance(value, dict):
        raise RowProblem("not an object", f"expected an object with named columns, found {shown(value)}")
    row = {name: column for name, column in value.items() if isinstance(name, str)}
    notes = Notes()
    if isinstance(value, Doubled):
        notes.reasons["keys given twice"] = "the row gives a key twice; the last one is read"
    compared = row.get("chosen") is not None or row.get("rejected") is not None
    ranked = not compared and any(row.get(name) is not None for name in _ANSWERS)
    left_out = 0
    if ranked:
        prompt, completions, left_out = _ranked_row(row, negatives_from_rank, notes)
    else:
        prompt, completions = _pair_row(row, habits, notes)
    layout = layout_of(tuple(row), (*columns_read(row), *((*_ANSWERS, "ranks") if ranked else PAIR)))
    note_unread(row, layout, prompt, completions, notes)
    note_doubts(row, layout, prompt, completions, notes)
    return ParsedRow(prompt, completions, tools_of(row), left_out, notes)


def _pair_row(row: dict[str, Any], habits: Habits, notes: Notes) -> tuple[Turns, tuple[Completion, ...]]:
    given = given_prompt(row, notes)
    if given is None and habits.implies_prompt and (asked := implied_prompt(row)):
        notes.reasons["prompt read as what chosen and rejected have in common"] = shown(asked)
        given = (Message("user", asked),)
        row = {**row, **{name: row[name][len(asked) :].lstrip() for name in PAIR}}
    missing = [name for name in PAIR if row.get(name) is None]
    if given is None and not any(_holds_conversation(row.get(name)) for name in PAIR):
        missing.insert(0, "prompt")
    if missing:
        raise _missing_columns(row, missing)
    heads, completions = zip(*(conversation(name, row[name], given, notes) for name in PAIR))
    prompt, other = (with_system(row, join(given, head), notes) for head in heads)
    if prompt != other:
        raise RowProblem("prompts of chosen and rejected differ", first_difference(prompt, other))
    prompt = tuple(without_own_end(turn, notes) for turn in prompt)
    _check_prompt(prompt)
    completions = without_prompt(prompt, completions, habits, notes)
    for name, completion in zip(PAIR, completions):
        _check_completion(name, completion)
    if completions[0] == completions[1]:
        text = shown(said_in(completions[0]))
        raise RowProblem("chosen equals rejected", f"chosen and rejected are the same text, {text}")
    return prompt, completions


def _ranked_row(
    row: dict[str, Any], negatives_from_rank: int, notes: Notes
) -> tuple[Turns, tuple[Completion, ...], int]:
    """The best answer, then those of lower rank. Answers that tie with the best or equal it are left out."""
    given = given_prompt(row, notes)
    missing = ["prompt"] if given is None else []
    if row.get("answers") is None and row.get("ranks") is None:
        missing.append("ranks")
    if missing:
        raise _missing_columns(row, missing)
    assert given is not None
    prompt = tuple(without_own_end(turn, notes) for turn in with_system(row, given, notes))
    _check_prompt(prompt)
    ranking = sorted(_rankings(row, given, notes), key=lambda ranking: ranking[0])
    if not ranking:
        raise RowProblem("nothing ranked below the chosen", "there are no answers")
    best, chosen = ranking[0]
    lower = [(rank, said) for rank, said in ranking if rank > best and said != chosen]
    for number, (_, completion) in enumerate([(best, chosen), *lower], 1):
        _check_completion(f"the answer in place {number}", completion)
    if not lower:
        raise RowProblem("nothing ranked below the chosen", f"all {len(ranking)} answers tie at rank {best:g}")
    # From the best's rank, not from 1: some data count from 0, and some had rank 2 removed before.
    highest = min(best - 1 + negatives_from_rank, lower[-1][0])
    completions = (chosen, *(said for rank, said in lower if rank >= highest))
    return prompt, completions, len(ranking) - len(completions)


def _rankings(row: dict[str, Any], given: Turns, notes: Notes) -> list[tuple[float, Completion]]:
    if row.get("answers") is not None:
        answers = objects_of("answers", row["answers"])
        for place, answer in enumerate(answers, 1):
            for key in answer if isinstance(answer, dict) else ():
                if key not in ("answer", "rank") and filled(answer[key]):
                    notes.leave_out(f"{key} of answers", f"answers[{place}]")
            if not isinstance(answer, dict) or answer.get("answer") is None or answer.get("rank") is None:
                raise RowProblem(
                    "wrong type", f"answers[{place}]: expected an object with answer and rank, found {shown(answer)}"
                )
        said, ranks = [answer["answer"] for answer in answers], [answer["rank"] for answer in answers]
    else:
        said, ranks = list_of("completions", row["completions"]), list_of("ranks", row["ranks"])
        if len(said) != len(ranks):
            raise RowProblem("wrong type", f"{len(said)} completions but {len(ranks)} ranks")
    for place, rank in enumerate(ranks, 1):
        if isinstance(rank, bool) or not isinstance(rank, (int, float)) or not math.isfinite(rank):
            raise RowProblem("wrong type", f"rank {place} should be a number (1 is best), found {shown(rank)}")
    found: list[tuple[float, Completion]] = []
    for place, (rank, answer) in enumerate(zip(ranks, said), 1):
        head, completion = conversation(f"answer {place}", answer, given, notes)
        if head and (joined := join(given, head)) != given:
            raise RowProblem("prompts of chosen and rejected differ", first_difference(given, joined))
        found.append((rank, completion))
    return found


def _check_prompt(prompt: Turns) -> None:
    if not any(message.role != "system" for message in prompt):
        raise RowProblem("empty prompt", "the prompt holds no turn of the user")
    for place, message in enumerate(prompt, 1):
        if is_empty(message):
            which = "the prompt" if len(prompt) == 1 else f"turn {place} of the prompt ({message.role})"
            raise RowProblem("empty prompt", f"{which} is empty")
    if prompt[-1].role not in ASKS:
        detail = f"the prompt ends with a turn of the {prompt[-1].role}, {shown(prompt[-1].content)}"
        raise RowProblem("prompt does not end with a user turn", detail)


def _check_completion(name: str, completion: Completion) -> None:
    if not completion.strip() if isinstance(completion, str) else is_empty(completion):
        raise RowProblem("empty completion", f"{name} is empty")


def _holds_conversation(value: object) -> bool:
    if isinstance(value, str):
        return bool(turns_in("", value, Notes()))
    return isinstance(value, (list, dict)) and len(value) > 1


def _missing_columns(row: dict[str, Any], names: Sequence[str]) -> RowProblem:
    """Names what is missing, what is there, and columns whose names come near."""
    others = {column.strip().lower(): column for column in row if column not in (*PROMPTS, *PAIR)}
    wanted = []
    for name in names:
        near = difflib.get_close_matches(name, others, n=1) or [column for column in others if name in column]
        hint = f" (did you mean '{others[near[0]]}'?)" if near else ""
        if names == ["prompt"] and not near and (like := next((one for one in _LIKE_PROMPTS if row.get(one)), "")):
            hint = f" (is it '{like}'? rename that column to prompt)"
        wanted.append(f"'{name}' is null" if name in row else f"no '{name}'{hint}")
    columns = ", ".join(list(row)[:12]) + (", ..." if len(row) > 12 else "")
    return RowProblem("missing column", f"{', '.join(wanted)}; columns: {columns or 'none'}")
