"""Command lines that several tests of whole commands type."""

import sys
from pathlib import Path

from tests.support.checkpoints import tiny_tasks

SETTINGS = (
    "pairs_per_step=6",
    "epochs=2",
    "max_prompt_tokens=64",
    "max_completion_tokens=32",
    "validate_every_steps=4",
)


def evaluation_command(model: Path, data: Path, storage: Path, judge: str, folders: dict[str, Path]) -> list[str]:
    words = [sys.executable, "sweeps/stage1_lr.py", "--model", str(model), "--dataset", str(data)]
    words += ["--storage", str(storage), "--learning-rates", "1e-3", "1e-4"]
    for setting in ("pairs_per_step=6", "epochs=3", "max_prompt_tokens=64", "max_completion_tokens=32"):
        words += ["--set", setting]
    words += ["--set", "evaluations=reward,harness,alpaca,arena", "--set", "evaluate_every_epochs=2"]
    words += ["--evaluation.harness-tasks", *tiny_tasks()[:2], "--evaluation.limit", "6"]
    words += ["--evaluation.alpaca-prompts", str(folders["prompts"]), "--evaluation.judges", judge]
    words += ["--evaluation.arena-questions", str(folders["arena"]), "--evaluation.arena-baseline", "old"]
    return [*words, "--evaluation.max-answer-tokens", "12"]
