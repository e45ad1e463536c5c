"""The pairs that a judge compared, for people: question, both answers, verdict, and what the calls cost."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval_workers.judging.costs import Price
from mmpo_train.storage.whole_file import write_whole

FILE_NAME = "pairs.jsonl"
"""In the folder of an evaluation's files."""


class Call(NamedTuple):
    """What a judge replied to one pair as shown, in one request."""

    prompt_tokens: int
    completion_tokens: int
    reply: str


Calls = dict[tuple[str, str, str], Call]
"""(question, answer shown first, answer shown second) -> the request. Verdicts that were kept need none."""


def note(calls: Calls, shown: tuple[str, str, str], prompt_tokens: int, completion_tokens: int, reply: str) -> None:
    """Add a request; of several for the same pair the tokens are added up."""
    before = calls.get(shown, Call(0, 0, ""))
    calls[shown] = Call(before.prompt_tokens + prompt_tokens, before.completion_tokens + completion_tokens, reply)


def pair_rows(
    judge: Any,
    questions: Sequence[str],
    ours: Sequence[str],
    theirs: Sequence[str],
    won: Iterable[float | None],
    price: Price | None = None,
) -> list[dict[str, Any]]:
    """A row for each question. `won` is how far ours is preferred, None if the judge failed. Tokens are 0 where the
    verdict had been kept. The judge's calls are forgotten."""
    calls: Calls = getattr(judge, "calls", {})
    rows = []
    for question, our, their, preference in zip(questions, ours, theirs, won, strict=True):
        made = [calls[shown] for shown in ((question, our, their), (question, their, our)) if shown in calls]
        tokens = sum(call.prompt_tokens for call in made), sum(call.completion_tokens for call in made)
        row = {"judge": judge.name, "question": question, "answer": our, "other_answer": their}
        row |= {"preference": preference, "prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
        rows.append(row | {"usd": price.of(*tokens) if price else None, "replies": [call.reply for call in made]})
    calls.clear()
    return rows


def write_pairs(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the rows to the folder's file."""
    write_whole(folder / FILE_NAME, "".join(json.dumps(row) + "\n" for row in rows))


def read_pairs(folder: Path) -> list[dict[str, Any]]:
    """The rows of the folder's file; empty if there is none."""
    path = folder / FILE_NAME
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
