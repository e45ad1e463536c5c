"""Write docs/options.md from what each program prints for --help, and from the fields of a trial.

python makers/options.py
"""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from mmpo.fields import fields_of
from mmpo_train.config import TrialConfig
from mmpo_train.sft.trial import SFTTrial
from mmpo_train.typed.programs import PROGRAMS as MODULES
from mmpo_train.typed.programs import main_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
PROGRAMS: Mapping[str, Callable[[list[str]], None]] = {name: main_of(name) for name in MODULES}
"""What follows `mmpo` -> the program's main function."""

OPENING = """# Options

This page is made from the programs' own `--help` by `make docs`; a test compares the two. Do not edit it.

`INT`, `FLOAT`, `STR` and `PATH` stand for a value, with `…` for several. An option without one is a flag and off by
default.

Some settings come from the environment:

| variable | meaning |
| --- | --- |
| `MMPO_STORAGE` | default of `--storage` |
| `MMPO_RUNNER` | default of `--runner` |
| `MLFLOW_TRACKING_URI` | default of `--tracking-uri` |
| `RAY_ADDRESS` | the Ray cluster to run on; without it a sweep starts Ray on this machine |
| `MMPO_CACHE` | cache of each machine: the model `tiny`, and copies from a bucket; default `~/.cache/mmpo-sweeps` |
| `MMPO_LOGICAL_GPUS=1` | Ray schedules by GPU count but training runs on CPUs, to test a cluster file without GPUs |
| `MMPO_WARM_PROCESSES=0` | each worker of a trial trains in its own process: [debugging](debugging.md) |
| `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` | keys of the judges; there is no option for them |
| `AWS_REGION`, `AWS_ENDPOINT_URL` and AWS's credentials | access to a bucket, on every machine |
"""
SWEEPS = tuple(PROGRAMS)[:10]
EVALUATION = "--evaluation."


class Option(NamedTuple):
    """One option of a program."""

    name: str
    """`--name`, or the kind of a positional argument's value."""
    value: str
    """The kind of its value; empty for a flag."""
    text: str
    """What it does, in one line."""


class Help(NamedTuple):
    """What a program prints for --help."""

    printed: str
    sentence: str
    """What the program does."""
    options: Sequence[Option]


def help_of(program: str) -> Help:
    """The help of a program, as it is printed and taken apart."""
    printed = io.StringIO()
    narrow = mock.patch.dict(os.environ, {"COLUMNS": "110"})  # where there is room tyro prints two columns
    with narrow, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        PROGRAMS[program](["--help"])
    lines = printed.getvalue().splitlines()
    options: list[Option] = []
    for line in map(str.rstrip, lines[3:]):
        begins = re.match(r"  (--[a-z][\w.-]+|(?=[A-Z]+(?: |$)|\[))(?: ?(\S.*?))??(?:  +(\S.*))?$", line)
        if begins:
            value = re.sub(r"^\[+(\S+) \[.*", r"\1 …", begins[2] or "")
            options.append(Option(begins[1] or value, value if begins[1] else "", begins[3] or ""))
        elif options and line.startswith(" " * 8):
            options[-1] = options[-1]._replace(text=f"{options[-1].text} {line.strip()}".strip())
    return Help(printed.getvalue(), lines[2].strip(), options)


def page() -> str:
    """The page in Markdown."""
    helps = {program: help_of(program) for program in PROGRAMS}
    common = [one for one in helps[SWEEPS[0]].options if all(one in helps[program].options for program in SWEEPS[:4])]
    sections = [
        OPENING,
        "## Every sweep\n",
        _table(one for one in common if not one.name.startswith(EVALUATION)),
        "## Evaluations of a sweep\n",
        "`--set evaluations=reward,harness,alpaca,arena` names the evaluations; these options say how they work.\n",
        _table(one for one in common if one.name.startswith(EVALUATION)),
        "## Each program\n",
        *(_section(program, text, common) for program, text in helps.items()),
        "## Fields of a trial\n",
        "For `--set FIELD=VALUE` of a sweep or of `mmpo train`.\n",
        _fields(TrialConfig),
        "## Fields of an instruction tuning\n",
        "For `--set FIELD=VALUE` of `mmpo sft`.\n",
        _fields(SFTTrial),
    ]
    return "\n".join(sections)


def _section(program: str, text: Help, common: Sequence[Option]) -> str:
    """A program: what it does, its own options, and where the others are."""
    suites = {one.name.replace(EVALUATION, "--"): one.text for one in common if one.name.startswith(EVALUATION)}
    elsewhere = [one for one in text.options if one in common or one.text == suites.get(one.name)]
    own = [one for one in text.options if one not in elsewhere]
    names = {one.name for one in text.options}
    lines = [f"### mmpo {program}\n", f"{text.sentence}\n"]
    if own:
        lines.append(_table(own))
    if program in SWEEPS:
        lacking = [one.name for one in common if one.name not in names]
        but = f" but {', '.join(f'`{name}`' for name in lacking)}" if lacking else ""
        lines.append(f"It takes the options of every sweep{but}.\n")
    elif set(common) <= set(elsewhere):
        lines.append("It also takes the options of every sweep.\n")
    elif taken := [f"`{one.name}`" for one in elsewhere if one in common]:
        lines.append(f"It also takes these options of every sweep: {', '.join(taken)}.\n")
    if bare := [f"`{one.name}`" for one in elsewhere if one not in common]:
        lines.append(f"It also takes, as sweeps do with `{EVALUATION}` in front: {', '.join(bare)}.\n")
    return "\n".join(lines)


def _table(options: Iterable[Option]) -> str:
    rows = [f"| `{f'{one.name} {one.value}'.strip()}` | {_cell(one.text)} |" for one in options]
    return "\n".join(["| option | what it does |", "| --- | --- |", *rows, ""])


def _fields(kind: type) -> str:
    rows = [
        f"| `{one.name}` | {f'`{one.default}`' if one.default else ''} | {_cell(one.meaning)} |"
        for one in fields_of(kind)
    ]
    return "\n".join(["| field | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
