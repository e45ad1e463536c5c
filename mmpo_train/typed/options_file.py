"""Options in a file, YAML or JSON: `--config sweep.yaml`, or a trial's own trial.json. `mmpo config` writes one."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from mmpo_train.config import as_type, identity, nearest, replace, type_name
from mmpo_train.errors import InputError
from mmpo_train.redaction import masked_values

OptionsType = TypeVar("OptionsType")
OF_THE_COMMAND = ("config", "print_config", "dry_run", "verbose", "show_examples")
"""Options that say what the command does now, and not what is trained."""

WHERE = ("storage", "tracking_uri", "runner")
"""Options that are of one machine."""
CONFIG = "sweep.yaml"
"""The artifact of a stage's run with its options."""


def read_options(path: Path, options: type[OptionsType], varied: tuple[str, ...] = ()) -> OptionsType:
    """The options that a file gives, the others at their defaults.

    A key is an option of the program, with `-` or `_`, or a field of the trial, as for `--set`. The file may also be
    the trial.json of a trial; the fields that the program `varied`, and those that the trial's objective does not use,
    are then left out. Raises InputError naming every unknown key and every wrong value.
    """
    values = _content(path)
    if {"digest", "config"} <= values.keys():
        values = _of_trial(values["config"], options, varied)
    return options(**_checked(values, options, f"{path} is"))


def given_options(values: Mapping[str, Any], options: type[OptionsType]) -> OptionsType:
    """The options that a call gives in Python, on top of those in the file `config`. Raises InputError as above."""
    values = dict(values)
    path = values.pop("config", None)
    varied = getattr(options, "varied", ())
    usual: Any = read_options(Path(path), options, varied) if path else None
    given = _checked(values, options, "the options are")
    if usual is None:
        return options(**given)
    return dataclasses.replace(usual, **given | {"set": (*usual.set, *given.get("set", ()))})


def _checked(values: Mapping[str, Any], options: type, what: str) -> dict[str, Any]:
    problems: list[str] = []
    given = _converted(values, options, getattr(options, "trial", None), "", problems)
    if problems:
        raise InputError(f"{what} not valid:\n  " + "\n  ".join(problems))
    return given


def as_yaml(program: str, options: Any, chosen: Mapping[str, Any] | None = None, leave_out: Sequence[str] = ()) -> str:
    """The options, and what was chosen for them, as a file that `--config` takes. What is empty is left to its default;
    secrets are masked."""
    values = _plain(options) | dict(chosen or {})
    values = {name: value for name, value in values.items() if name not in (*OF_THE_COMMAND, *leave_out)}
    if assigned := values.pop("set", None):
        values["set"] = {
            name: int(text) if text.isdigit() else text for name, _, text in (one.partition("=") for one in assigned)
        }
    return f"# {program} --config THIS_FILE\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)}"


def options_of(kind: type) -> dict[str, Any]:
    """Name -> type of the options that a program takes."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {name: hint for name, hint in fields.items() if tyro.conf.Fixed not in getattr(hint, "__metadata__", ())}


def _content(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.expanduser().read_text())
    except OSError as error:
        raise InputError(f"--config {path} cannot be read ({error.strerror}); give a YAML or JSON file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path} must have a line `option: value` for each option; it has {values!r:.80}")
    return {str(name): value for name, value in values.items()}


def _of_trial(config: Mapping[str, Any], options: type, varied: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a trial that determine or direct it, without those of the program's grid."""
    trial = getattr(options, "trial", None)
    known = {field.name: field for field in dataclasses.fields(trial)} if trial is not None else {}
    kept = {name: value for name, value in config.items() if not name.endswith("_fingerprint") and name not in varied}
    if trial is not None and "objective" in known:
        whole = replace(trial(), {name: value for name, value in config.items() if name in known})
        used = identity(whole)
        kept = {n: v for n, v in kept.items() if n not in known or n in used or known[n].metadata.get("runtime")}
    return kept


def _converted(
    values: Mapping[str, Any], options: type, trial: type | None, inside: str, problems: list[str]
) -> dict[str, Any]:
    """The values by option, in the options' types; what is wrong is added to the problems."""
    known = options_of(options)
    given: dict[str, Any] = {}
    fields = typing.get_type_hints(trial) if trial is not None else {}
    assigned: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if value is None:
            continue
        if name == "set" and name in known:
            pairs = value.items() if isinstance(value, dict) else (str(one).partition("=")[::2] for one in value)
            assigned |= {field.strip(): text for field, text in pairs}
        elif name in known and isinstance(kind := _bare(known[name]), type) and dataclasses.is_dataclass(kind):
            if isinstance(value, dict):
                given[name] = kind(**_converted(value, kind, None, f"{inside}{key}.", problems))
            else:
                problems.append(f"{inside}{key} must have options of its own, got {value!r}")
        elif name in known:
            try:
                given[name] = _as_option(value, _bare(known[name]))
            except (TypeError, ValueError, OverflowError):
                problems.append(f"{inside}{key} must be {_kind_name(_bare(known[name]))}, got {value!r}")
        elif name in fields:
            assigned.setdefault(name, value)
        else:
            problems.append(f"{inside}{key} is no option of this program{nearest(name, [*known, *fields])}")
    problems += _wrong_fields(assigned, fields)
    if assigned:
        given["set"] = tuple(f"{name}={_text(value)}" for name, value in assigned.items())
    return given


def _wrong_fields(assigned: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in assigned.items():
        if name not in fields:
            yield f"set: {name} is no field of the trial{nearest(name, fields)}"
            continue
        try:
            as_type(value, fields[name])
        except (TypeError, ValueError, OverflowError):
            yield f"{name} must be {type_name(fields[name])}, got {value!r}"


def _as_option(value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        [part, *_] = typing.get_args(kind)
        return tuple(_as_option(one, part) for one in (value if isinstance(value, list | tuple) else [value]))
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            raise ValueError(value)
        return value
    return Path(value) if kind is Path else as_type(value, kind)


def _bare(kind: Any) -> Any:
    """The type without what tyro is told of it, and without `None`."""
    while hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        [kind] = (one for one in typing.get_args(kind) if one is not type(None))
    return kind


def _kind_name(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list, each {_kind_name(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    return "a path" if kind is Path else type_name(kind)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(options: Any) -> dict[str, Any]:
    """The options that are not empty, as YAML has them."""
    plain: dict[str, Any] = {}
    for name in options_of(type(options)):
        value = getattr(options, name)
        if not value and (value is None or value == getattr(type(options), name, None)):
            continue
        value = _plain(value) if dataclasses.is_dataclass(value) else value
        value = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        plain[name] = masked_values(value)
    return plain
