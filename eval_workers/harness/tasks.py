"""Task definitions of the LM Harness as YAML files: ten packaged tasks, on hub or local data, and tiny's own.

The definition of a packaged task includes lm-eval's YAML file; only the place of its data is replaced.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from mmpo_train.errors import InputError
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tiny import rows as tiny
from mmpo_train.tiny.tasks import Question, draw_question, write_answer

# Task -> its file in lm-eval's folder of tasks, and the split that is scored.
_PACKAGED = {
    "winogrande": ("winogrande/default.yaml", "validation"),
    "arc_easy": ("arc/arc_easy.yaml", "test"),
    "piqa": ("piqa/piqa.yaml", "validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation"),
    "openbookqa": ("openbookqa/openbookqa.yaml", "test"),
    "arc_challenge": ("arc/arc_challenge.yaml", "test"),
    "mmlu": ("mmlu/default", "test"),
    "mathqa": ("mathqa/mathqa.yaml", "test"),
    "race": ("race/race.yaml", "test"),
    "commonsense_qa": ("commonsense_qa/default.yaml", "validation"),
}
# Task -> families of tiny's questions that it asks.
_TINY = {
    "tiny_facts": ("capital", "opposite", "colour", "young", "kind"),
    "tiny_calendar": ("day", "month"),
    "tiny_numbers": ("comparison", "sum"),
    "tiny_lists": ("position", "count"),
}
HARNESS_TASKS = tuple(_PACKAGED)
TINY_TASKS = tuple(_TINY)

_TINY_QUESTIONS_PER_TASK = 100
_TINY_DRAWS = 4_000
_TINY_OPTIONS = 4


def check_names(tasks: Sequence[str]) -> None:
    """Raises InputError if a task is unknown, with the nearest known one, or if there is no task."""
    known = [*HARNESS_TASKS, *TINY_TASKS]
    problems = []
    for name in tasks:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, 0.5)
            problems.append(f"task {name!r} is unknown" + (f"; did you mean {nearest[0]!r}?" if nearest else ""))
    if not tasks:
        problems.append("no task was given")
    if problems:
        raise InputError(f"{'; '.join(problems)} (known: {', '.join(known)})")


def missing_data(tasks: Sequence[str], task_data: Path) -> list[str]:
    """What a folder of local data lacks, one line per task; empty if it is complete."""
    return [f"{name}: {error}" for name in tasks if (error := _missing(name, task_data))]


def _missing(name: str, task_data: Path) -> str:
    if name in _TINY or _files_of(name, task_data):
        return ""
    split = _PACKAGED[name][1]
    if name == "mmlu":
        return (
            f"{task_data} has neither mmlu.jsonl nor mmlu/test.jsonl (with a column `subject`) nor files "
            "mmlu/<subject>.jsonl; put the rows of cais/mmlu's test split there"
        )
    return (
        f"{task_data} has neither {name}.jsonl nor {name}/{split}.jsonl; "
        f"put the rows of its {split} split there, in the columns of the hub's dataset"
    )


def _files_of(name: str, task_data: Path) -> list[Path]:
    whole = [task_data / f"{name}.jsonl", task_data / name / f"{_PACKAGED[name][1]}.jsonl"]
    if found := [path for path in whole if path.is_file()]:
        return found[:1]
    return sorted((task_data / name).glob("*.jsonl")) if name == "mmlu" else []


def characters_of(tasks: Sequence[str], task_data: Path | None, limit: int = 0) -> int:
    """Characters of the rows that the tasks ask, of each at most `limit`; 0 if some of them are on the hub alone."""
    characters = 0
    for name in tasks:
        if name in _TINY:
            rows = [json.dumps(row) for row in tiny_rows(name)]
        elif task_data and (files := _files_of(name, task_data)):
            rows = [line for file in files for line in file.read_text("utf-8-sig").splitlines()]
        else:
            return 0
        characters += sum(map(len, rows[: limit or None]))
    return characters


def write_definition(name: str, packaged: Path, task_data: Path | None, folder: Path) -> None:
    """Write the YAML files of one task to `folder`, and the data of tiny's tasks. `packaged` is lm-eval's folder of
    tasks. `task_data` None means the hub. Raises InputError if data are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in _TINY:
        _write_tiny(name, folder)
        return
    if task_data is not None and (problem := _missing(name, task_data)):
        raise InputError(problem)
    source, split = _PACKAGED[name]
    if name != "mmlu":
        local = {} if task_data is None else _local(_files_of(name, task_data)[0], split, folder)
        _write_yaml(folder / f"{name}.yaml", {"include": str(packaged / source), "task": name, **local})
        return
    for group in (packaged / source).glob("_mmlu*.yaml"):
        _write_yaml(folder / group.name, {"include": str(group)})
    subjects = {path.stem.removeprefix("mmlu_"): path for path in sorted((packaged / source).glob("mmlu_*.yaml"))}
    files = {} if task_data is None else _files_of_subjects(subjects, task_data, folder / "data")
    for subject, path in subjects.items():
        local = _local(files[subject], split, folder) if files else {}
        _write_yaml(folder / path.name, {"include": str(path), "task": path.stem, **local})


def _local(file: Path, split: str, folder: Path) -> dict[str, Any]:
    """The settings that replace the hub's dataset. Only the scored split is needed; zero-shot has no examples."""
    nothing = ("dataset_name", "training_split", "validation_split", "test_split", "fewshot_split")
    data = {"data_files": {split: str(file.resolve())}, "cache_dir": str((folder / "arrow").resolve())}
    return dict.fromkeys(nothing) | {"dataset_path": "json", "dataset_kwargs": data, f"{split}_split": split}


def _files_of_subjects(subjects: Iterable[str], task_data: Path, folder: Path) -> dict[str, Path]:
    """Subject -> its file; one file with a column `subject` is split into `folder`. Raises InputError if a subject is
    missing, since mmlu is the mean over all of them."""
    found = {path.stem: path for path in _files_of("mmlu", task_data)}
    if found.keys() <= {"mmlu", "test"}:
        [whole] = found.values()
        rows: dict[str, list[str]] = {}
        for number, line in enumerate(whole.read_text("utf-8-sig").split("\n"), 1):
            if not line.strip():
                continue
            try:
                rows.setdefault(json.loads(line)["subject"], []).append(line)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{whole} line {number} is not a JSON object with a column `subject`") from error
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for subject, lines in rows.items():
            if subject in subjects:
                found[subject] = folder / f"{subject}.jsonl"
                _write_changed(found[subject], "\n".join(lines) + "\n")
    if missing := [subject for subject in subjects if subject not in found]:
        raise InputError(
            f"{task_data} has {len(found)} subjects of mmlu; add the rows of the others: {', '.join(missing)}"
        )
    return found


def _write_tiny(name: str, folder: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in tiny_rows(name))
    data = folder / f"{name}-{hashlib.sha256(rows.encode()).hexdigest()[:16]}.jsonl"
    _write_changed(data, rows)
    scored = {
        "task": name,
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": tiny.RECIPE.version},
    }
    _write_yaml(folder / f"{name}.yaml", scored | _local(data, "validation", folder))


def tiny_rows(name: str) -> list[dict[str, Any]]:
    """Rows {question, choices, answer} of one of TINY_TASKS: new prompts, and the place of the right answer. All
    choices of a question have the same sentence; the usual mistake is among them."""
    random = Random(f"{tiny.RECIPE.seed} {name}")
    rows = []
    asked = [question for question in _unseen_questions() if question.family.name in _TINY[name]]
    for question in asked[:_TINY_QUESTIONS_PER_TASK]:
        solution = question.solution
        others = [option for option in solution.options if option != solution.mistake]
        wrong = random.sample(others, min(len(others), _TINY_OPTIONS - 2))
        answers = [solution.answer, solution.mistake, *wrong]
        random.shuffle(answers)
        wording = random.random()
        choices = [write_answer(question, answer, "good", Random(wording)) for answer in answers]
        rows.append({"question": question.prompt, "choices": choices, "answer": answers.index(solution.answer)})
    return rows


@cache
def _unseen_questions() -> tuple[Question, ...]:
    """Distinct questions whose prompts occur neither in the model's demonstrations nor in the training pairs."""
    random = Random(f"{tiny.RECIPE.seed} harness")
    seen = {row["prompt"] for row in [*tiny.instruction_examples(), *tiny.preference_examples("train")]}
    drawn = {question.prompt: question for question in (draw_question(random) for _ in range(_TINY_DRAWS))}
    return tuple(question for prompt, question in drawn.items() if prompt not in seen)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    _write_changed(path, json.dumps(content, indent=1))  # JSON is YAML


def _write_changed(path: Path, text: str) -> None:
    """Write a file unless it has this text already: its time must not change, or caches of it become invalid."""
    if not path.is_file() or path.read_text() != text:
        write_whole(path, text)
