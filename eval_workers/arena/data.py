"""Arena-Hard's questions and answers, in the folder form of lmarena/arena-hard-auto, v0.1 and v2.0.

A folder holds question.jsonl and model_answer/MODEL.jsonl. The form of a line is known by its names:

    v0.1  {question_id, category, cluster, turns: [{content}]}
          {question_id, model_id, choices: [{index, turns: [{content, token_len}]}]}
    v2.0  {uid, category, subcategory, prompt}
          {uid, model, messages: [{role, content}, {role: "assistant", content: {answer}}]}
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmpo_train.errors import InputError
from mmpo_train.storage.whole_file import write_whole

# As in upstream: one model for v0.1, one for each category of v2.0.
USUAL_BASELINE = "gpt-4-0314"
USUAL_BASELINES = {
    "hard_prompt": "o3-mini-2025-01-31",
    "coding": "o3-mini-2025-01-31",
    "math": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}


class Question(NamedTuple):
    """One line of question.jsonl."""

    name: str
    """Its question_id or uid."""
    category: str
    text: str
    version: Literal["v0.1", "v2.0"]


def read_questions(folder: Path, limit: int = 0) -> list[Question]:
    """The first `limit` questions of a folder (0: all). Raises InputError, with the line, for a malformed one."""
    path = folder / "question.jsonl"
    questions: dict[str, Question] = {}
    for line, row in _rows(path):
        question = _question(row, f"line {line} of {path}")
        if question.name in questions:
            raise InputError(f"line {line} of {path}: question '{question.name}' occurs twice; remove one of them")
        questions[question.name] = question
    if not questions:
        raise InputError(f"{path} has no questions; give a folder like those of lmarena/arena-hard-auto under data/")
    return list(questions.values())[: limit or None]


def usual_baseline(question: Question) -> str:
    """The model that upstream compares with on this question. Raises InputError if it has none."""
    if question.version == "v0.1":
        return USUAL_BASELINE
    if question.category not in USUAL_BASELINES:
        raise InputError(
            f"question '{question.name}' is of category '{question.category}', which has no usual baseline (known: "
            f"{', '.join(USUAL_BASELINES)}); name the baseline"
        )
    return USUAL_BASELINES[question.category]


def read_answers(folder: Path, model: str, questions: Sequence[Question]) -> list[str]:
    """The model's answer to each question; the last one if there are several, as upstream reads them. Raises InputError
    if the file or an answer is missing, or a line is malformed."""
    path = folder / "model_answer" / f"{model}.jsonl"
    if not path.is_file():
        there = sorted(other.stem for other in path.parent.glob("*.jsonl"))
        raise InputError(
            f"{path} does not exist; name a baseline with answers in that folder "
            f"({', '.join(there[:10]) or 'it is empty'}), or the starting model"
        )
    answers: dict[str, str] = {}
    for line, row in _rows(path):
        place = f"line {line} of {path}"
        answers[_name(row, place)] = _answer(row, place)
    missing = [question.name for question in questions if question.name not in answers]
    if missing:
        raise InputError(
            f"{path} lacks answers to {len(missing)} of {len(questions)} questions (the first: {missing[0]}); "
            "download the file again, or name another baseline"
        )
    return [answers[question.name] for question in questions]


def write_answers(
    folder: Path, model: str, questions: Sequence[Question], answers: Sequence[str], tokens: Sequence[int]
) -> Path:
    """Write model_answer/MODEL.jsonl, each line in its question's form; `tokens` are the lengths of the answers."""
    path = folder / "model_answer" / f"{model}.jsonl"
    write_rows(path, (_answer_row(model, *one) for one in zip(questions, answers, tokens, strict=True)))
    return path


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, in ASCII, since answers may have halves of surrogate pairs."""
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def _answer_row(model: str, question: Question, answer: str, tokens: int) -> dict[str, Any]:
    if question.version == "v0.1":
        turns = [{"content": answer, "token_len": tokens}]
        return {"question_id": question.name, "model_id": model, "choices": [{"index": 0, "turns": turns}]}
    messages = [{"role": "user", "content": question.text}, {"role": "assistant", "content": {"answer": answer}}]
    return {"uid": question.name, "model": model, "messages": messages, "metadata": {"token_len": tokens}}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers from 1, and the object in each line; empty lines are skipped."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a folder with this file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; download it again") from error
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise InputError(f"line {line} of {path} is not JSON ({error}); correct it or download the file") from error
        if not isinstance(row, dict):
            raise InputError(f"line {line} of {path} is a {type(row).__name__}, expected a JSON object")
        yield line, row


def _question(row: dict[str, Any], place: str) -> Question:
    name = _name(row, place)
    category = str(row.get("category") or "other")
    if "prompt" in row:
        return Question(name, category, _text(row["prompt"], f"{place}: prompt"), "v2.0")
    turns = row.get("turns")
    if not isinstance(turns, list) or len(turns) != 1:
        shown = f"{len(turns)} turns" if isinstance(turns, list) else "neither a prompt nor turns"
        raise InputError(f"{place} has {shown}, expected prompt (v2.0) or turns: [{{content}}], one of them (v0.1)")
    return Question(name, category, _text(_content(turns[0]), f"{place}: turns[0].content"), "v0.1")


def _answer(row: dict[str, Any], place: str) -> str:
    if "messages" in row:
        messages = row["messages"]
        last = messages[-1] if isinstance(messages, list) and messages else None
        if not isinstance(last, dict) or last.get("role") != "assistant":
            raise InputError(f"{place}: messages should end with one whose role is assistant")
        content = last.get("content")
        if isinstance(content, dict):
            content = content.get("answer")
        return _text(content, f"{place}: the assistant's content (or its answer)", empty=True)
    try:
        [turn] = row["choices"][0]["turns"]
    except (LookupError, TypeError, ValueError):
        raise InputError(
            f"{place} should hold choices: [{{turns: [{{content}}]}}] with one turn (v0.1) or messages (v2.0)"
        ) from None
    return _text(_content(turn), f"{place}: choices[0].turns[0].content", empty=True)


def _content(turn: Any) -> Any:
    return turn.get("content") if isinstance(turn, dict) else turn


def _name(row: dict[str, Any], place: str) -> str:
    name = row.get("uid", row.get("question_id"))
    if not isinstance(name, (str, int)) or name == "":
        raise InputError(f"{place} has no name; expected question_id (v0.1) or uid (v2.0)")
    return str(name)


def _text(value: Any, what: str, *, empty: bool = False) -> str:
    """The text; an answer may be empty, a question may not. Raises InputError."""
    if not isinstance(value, str) or not (value.strip() or empty):
        raise InputError(f"{what} should be text, found {json.dumps(value)[:60]}; correct the line")
    return value
