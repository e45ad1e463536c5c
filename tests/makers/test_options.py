"""docs/options.md against the programs, and each program's --help against what it takes."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest

from makers.options import PAGE, PROGRAMS, Help, Option, help_of, page
from tests.support.programs import parse

VALUES = {"INT": "7", "FLOAT": "0.25", "STR": "some", "PATH": "some", "FIELD=VALUE": "gamma=3"}
REFUSED = (
    ("objectives", "--objective"),
    ("mc-po-studies", "--objective"),
    ("ablations", "--objective"),
    ("joint", "--seeds"),
    ("judge", "--actors-per-suite"),
    ("judge", "--gpus-per-actor"),
    ("judge", "--accelerator"),
)


def listed(text: Help) -> set[str]:
    """The options at the beginning of a line of the help, found without taking the help apart."""
    return set(re.findall(r"^[ │]+(--[a-z][\w.-]+)", text.printed, flags=re.MULTILINE))


def values_of(options: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each field of parsed options, nested ones too, with its value and its default."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from values_of(value)
        else:
            yield field.name, value, field.default


def typed(option: Option) -> list[str]:
    """The option with a value of its kind, other than its default."""
    kind = option.value.removesuffix(" …")
    value = kind.strip("{}").split(",")[-1] if kind.startswith("{") else VALUES.get(kind, kind)
    return [option.name, value] if value else [option.name]


@pytest.fixture(scope="module")
def helps() -> dict[str, Help]:
    return {program: help_of(program) for program in PROGRAMS}


def test_the_page_is_what_the_programs_print(helps):
    assert PAGE.read_text() == page(), "run `make docs`"
    for text in helps.values():
        assert text.options and listed(text) <= set(re.findall(r"--[a-z][\w.-]+", PAGE.read_text()))


def test_every_option_says_what_it_does_and_no_default_is_empty(helps):
    for program, text in helps.items():
        assert {one.name for one in text.options if one.name.startswith("--")} == listed(text)
        for one in text.options:
            assert len(one.text.split()) > 2 and one.text[-1] in ".)", (program, one)
            assert not re.search(r"\(default|Default: ?(None|False|True|''|0)?\.?$", one.text), (program, one)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_listed_reaches_its_field_and_a_flag_turns_its_field_on(program, helps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / VALUES["STR"]).write_text("{}")  # what --config names
    words = [word for one in helps[program].options if one.name.startswith("--") for word in typed(one)]
    positional = [VALUES[one.name.removesuffix(" …")] for one in helps[program].options if one.name[0] != "-"]
    options = parse(program, [*positional, *words])
    changed = [(name, value) for name, value, default in values_of(options) if value != default]
    assert len(changed) == len(helps[program].options)
    assert {name for name, value in changed if isinstance(value, bool) and not value} == set()


@pytest.mark.parametrize(("program", "option"), REFUSED)
def test_an_option_without_meaning_for_a_program_is_neither_listed_nor_taken(program, option, helps, capsys):
    assert option not in {one.name for one in helps[program].options}
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[program]([option, "1"])
    assert stop.value.code == 2 and option in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    for main in PROGRAMS.values():
        with pytest.raises(SystemExit):
            main(["--help"])
        _, *lines = capsys.readouterr().out.splitlines()  # the usage is one line, whatever it has
        assert max(map(len, lines)) <= columns
