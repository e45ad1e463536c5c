"""Prompts, questions and tasks on which checkpoints are judged in tests."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """A prompt file, and questions with baseline answers in Arena-Hard's form."""
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"instruction": f"Add {number} and 3."} for number in range(12)]))
    arena = tmp_path / "arena"
    (arena / "model_answer").mkdir(parents=True)
    questions = [
        {"question_id": str(n), "category": "c", "cluster": "x", "turns": [{"content": f"Add {n} and 2."}]}
        for n in range(8)
    ]
    answers = [
        {"question_id": str(n), "model_id": "old", "choices": [{"index": 0, "turns": [{"content": f"It is {n + 2}."}]}]}
        for n in range(8)
    ]
    (arena / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (arena / "model_answer" / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return {"prompts": prompts, "arena": arena}


def tiny_tasks() -> tuple[str, ...]:
    from eval_workers.harness.tasks import TINY_TASKS

    return TINY_TASKS
