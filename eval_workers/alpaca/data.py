"""AlpacaEval's files: prompts, outputs, instruction difficulties and gamed rows, from the hub or from local files."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval_workers.alpaca.length_control import Gamed
from mmpo_train.errors import InputError
from mmpo_train.storage.whole_file import write_whole

OFFICIAL, TINY = "alpaca_eval", "tiny"

HUB = "tatsu-lab/alpaca_eval"
PROMPTS_FILE, GAMED_FILE = "alpaca_eval_gpt4_baseline.json", "df_gamed.csv"


class Outputs(NamedTuple):
    """One model's answers, in the order of the prompts."""

    generator: str
    """Name of the model."""
    texts: list[str]
    tokens: list[int]
    """Length of each, end token included; empty if only the texts are known."""
    cut: int
    """Number of answers that were cut."""


def read_prompts(source: str) -> list[str]:
    """The distinct prompts of a source: OFFICIAL (the 805, from the hub or its cache), TINY (validation prompts of the
    embedded data), or a file (JSON list or JSONL of {instruction} or {prompt}, or one prompt a line).

    Raises InputError.
    """
    if source == TINY:
        from mmpo_train.tiny.rows import preference_examples

        return [row["prompt"] for row in preference_examples("validation")]
    path = fetch(PROMPTS_FILE) if source == OFFICIAL else Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"prompts '{source}' cannot be read ({type(error).__name__}); give {OFFICIAL}, {TINY} or a file"
        ) from error
    lines = [line for line in text.split("\n") if line.strip()]
    if path.suffix not in (".json", ".jsonl"):
        prompts: list[Any] = [line.strip() for line in lines]
    else:
        try:
            rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in lines]
        except ValueError as error:
            raise InputError(f"prompts {path} are not JSON ({error}); give a list of {{instruction}}") from error
        if not isinstance(rows, list):
            raise InputError(f"prompts {path} are not a JSON list; give a list of {{instruction}} or {{prompt}}")
        prompts = [row.get("instruction", row.get("prompt")) if isinstance(row, dict) else row for row in rows]
    bad = [place for place, prompt in enumerate(prompts, 1) if not isinstance(prompt, str) or not prompt.strip()]
    if bad or not prompts:
        found = f"row {bad[0]} has no text under instruction or prompt" if bad else "the file has no prompts"
        raise InputError(
            f"prompts {path} cannot be used: {found}; give texts, or {{instruction}} or {{prompt}} of each"
        )
    return list(dict.fromkeys(prompts))


def read_outputs(path: Path, prompts: Sequence[str]) -> Outputs:
    """The answers to these prompts in an outputs.json of AlpacaEval. Raises InputError if one is missing."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        outputs = {row["instruction"]: row["output"] for row in rows}
        generator = str(rows[0].get("generator", path.stem)) if rows else path.stem
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a list of {{instruction, output, generator}} ({type(error).__name__}); give the "
            "outputs.json of AlpacaEval, or a model folder"
        ) from error
    missing = [prompt for prompt in prompts if not isinstance(outputs.get(prompt), str)]
    if missing:
        raise InputError(
            f"{path} has no answer to {len(missing)} of {len(prompts)} prompts (first: {missing[0][:80]!r}); give the "
            "outputs of these prompts, or a model folder"
        )
    return Outputs(generator, [outputs[prompt] for prompt in prompts], [], 0)


def write_outputs(path: Path, prompts: Sequence[str], outputs: Outputs) -> None:
    """Write outputs in AlpacaEval's form, a list of {instruction, output, generator}."""
    rows = [
        {"instruction": prompt, "output": text, "generator": outputs.generator}
        for prompt, text in zip(prompts, outputs.texts, strict=True)
    ]
    write_whole(path, json.dumps(rows, indent=1) + "\n")


def read_length_data(
    source: str, prompts: Sequence[str], difficulty: Path | None, gamed: Path | None, gamed_sha256: str
) -> tuple[dict[str, float] | None, list[Gamed] | None]:
    """Difficulties and gamed rows: from the given files, for the 805 prompts from the hub's file, otherwise none.
    `source` is that of the prompts, as for `read_prompts`. Raises InputError."""
    gamed = gamed or (fetch(GAMED_FILE) if source == OFFICIAL else None)
    if gamed:
        gamed = checked(gamed, gamed_sha256)
    path = difficulty or gamed
    if path is None:
        return None, None
    of_prompt = read_difficulty(path, prompts)
    unknown = [prompt for prompt in prompts if prompt not in of_prompt]
    if unknown:
        raise InputError(f"{path} has no difficulty for {len(unknown)} prompts (first: {unknown[0][:80]!r}); add them")
    return of_prompt, read_gamed(gamed, [of_prompt[prompt] for prompt in prompts]) if gamed else None


def fetch(name: str) -> Path:
    """Path of AlpacaEval's file of that name, from the hub or, without a network, its cache. Raises InputError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB, name, repo_type="dataset"))
    except Exception as error:  # the hub's own errors and those of its HTTP library, which changes between releases
        raise InputError(
            f"{name} could not be loaded from the hub's dataset {HUB} ({type(error).__name__}); check the network, or "
            "give the path of a copy"
        ) from error


def checked(path: Path, sha256: str) -> Path:
    """The path, if the file's SHA-256 (hex) is this one or none is given. Raises InputError."""
    found = hashlib.sha256(_read(path)).hexdigest()
    if sha256 and found != sha256.lower():
        raise InputError(f"{path} has SHA-256 {found}, expected {sha256.lower()}; it is a different file, or damaged")
    return path


def read_difficulty(path: Path, instructions: Sequence[str]) -> dict[str, float]:
    """Instruction -> difficulty, from the hub's df_gamed.csv or instruction_difficulty.csv, or from JSON.

    A CSV numbers the instructions from 0, and JSON {"instruction_difficulty": [...]} lists one number for each, both in
    the order of `instructions`, those of the whole benchmark. JSON {instruction: difficulty} may have any order. Raises
    InputError.
    """
    if path.suffix == ".csv":
        of_number: dict[int, float] = {}
        for row in _csv_rows(path, "instruction_difficulty"):
            number = row["index"] if "index" in row else next(iter(row.values()))
            of_number.setdefault(int(_number(path, number)), _number(path, row["instruction_difficulty"]))
        values = [value for _, value in sorted(of_number.items())]
        in_order = sorted(of_number) == list(range(len(instructions)))
    else:
        content = _json_object(path)
        if "instruction_difficulty" not in content:
            return {instruction: _number(path, value) for instruction, value in content.items()}
        values = [_number(path, value) for value in content["instruction_difficulty"]]
        in_order = len(values) == len(instructions)
    if not in_order:
        raise InputError(
            f"{path} has {len(values)} difficulties in the benchmark's order, but there are {len(instructions)} "
            "instructions; give those of these instructions, or JSON {instruction: difficulty}"
        )
    return dict(zip(instructions, values, strict=True))


def read_gamed(path: Path, difficulties: Sequence[float]) -> list[Gamed]:
    """The gamed rows, from the hub's df_gamed.csv or JSON {baseline: {"std_delta_len": [...], "preference": [...]}}.

    `difficulties` belong to the rows of the JSON form, in the benchmark's order. Unjudged rows are left out.
    Raises InputError.
    """
    table: list[tuple[Any, Any, Any]] = []
    if path.suffix == ".csv":
        columns = "preference", "std_delta_len", "instruction_difficulty"
        table += [(row[columns[0]], row[columns[1]], row[columns[2]]) for row in _csv_rows(path, *columns)]
    else:
        for name, lists in _json_object(path).items():
            if isinstance(lists, dict):
                preferences, lengths = lists.get("preference", []), lists.get("std_delta_len", [])
                if not len(preferences) == len(lengths) == len(difficulties):
                    raise InputError(
                        f"{path}: {name} has {len(preferences)} preferences and {len(lengths)} std_delta_len, and "
                        f"there are {len(difficulties)} difficulties; the numbers must be equal"
                    )
                table += zip(preferences, lengths, difficulties)
    unjudged = "", "nan", None
    rows = [Gamed(*(_number(path, value) for value in row)) for row in table if row[0] not in unjudged]
    if not rows or not all(0 <= row.won <= 1 for row in rows):
        raise InputError(f"{path} has no gamed rows with preferences from 0 to 1; give df_gamed.csv of the hub's {HUB}")
    return rows


def _csv_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(_text(path), newline="")))
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; give {GAMED_FILE} of the hub's dataset {HUB}")
    return rows


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is neither a .csv file nor a JSON object; give {GAMED_FILE} of the hub's {HUB}")
    return content


def _text(path: Path) -> str:
    return _read(path).decode("utf-8", "replace")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give an existing file") from error


def _number(path: Path, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{path} has {value!r} where a number is expected; give {GAMED_FILE} of the hub's {HUB}")
    return number
