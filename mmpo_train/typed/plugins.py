"""Plug-ins: objectives, judges and evaluations in a file of a person's own, or in an installed package.

A plug-in is one Python file with at least one of these tables, whose names are new:

    OBJECTIVES = {"name": (("beta",), build)}    the fields that it reads; TrialConfig -> objectives.Objective
    JUDGES = {"name": compare}                   (question, answer_a, answer_b) -> 1 if a is better, 0 if b is, 0.5
    EVALUATIONS = {"name": evaluate}             (checkpoint, artifacts), two folders -> metric -> number

Its text goes to all processes of a command in their environment, so that it is the same on every machine. The SHA-256
of the text is part of the trials that use its objective or judge.
"""

import base64
import hashlib
import inspect
import json
import os
import sys
import types
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmpo_train import config as configs
from mmpo_train.config import OBJECTIVE_FIELDS, PLUGGED, TrialConfig, nearest
from mmpo_train.errors import InputError, first_line, in_brief
from mmpo_train.metric_names import OF_SUITE

ENVIRONMENT = "MMPO_PLUGINS"
GROUP = "mmpo.plugins"
"""Entry points of installed packages, each of which names a module."""
_MOST_BYTES = 100_000  # Linux takes 128 KiB in one variable
_TABLES = {"OBJECTIVES": "objective", "JUDGES": "judge", "EVALUATIONS": "evaluation"}


@dataclass(frozen=True)
class PlugIn:
    """A plug-in that is loaded."""

    name: str
    sha256: str
    tables: Mapping[str, Mapping[str, Any]]
    """Kind -> its table: objective, judge or evaluation."""

    @property
    def label(self) -> str:
        """What a trial's field `plugins` has of it."""
        return f"{self.name}@{self.sha256[:16]}"


_loaded: dict[str, PlugIn] = {}


def load(sources: Iterable[str]) -> list[str]:
    """Load plug-ins, each a file or the name of an entry point, here and for the processes that are started from here.

    Returns the names of all objectives of plug-ins.
    Raises InputError for one that cannot be used, saying why.
    """
    texts = _inherited()
    for source in sources:
        name, text = _text_of(source)
        if name in texts and texts[name] != text:
            raise InputError(f"two plug-ins are called {name}; rename one of the files")
        if name not in _loaded:
            _register(_execute(name, text, source), source)
        texts[name] = text
    packed = base64.b64encode(zlib.compress(json.dumps(texts).encode())).decode()
    if len(packed) > _MOST_BYTES:
        raise InputError(
            f"the plug-ins have {len(packed):,} compressed bytes, {_MOST_BYTES:,} is the limit; shorten them"
        )
    os.environ[ENVIRONMENT] = packed
    return [name for plugin in _loaded.values() for name in plugin.tables["objective"]]


def set_up_worker() -> None:
    """What each of Ray's workers begins with: secrets are masked in its logs, and the command's plug-ins loaded."""
    from mmpo_train.redaction import mask_logs

    mask_logs()
    for name, text in _inherited().items():
        if name not in _loaded:
            _register(_execute(name, text, name), name)


def objective_of(name: str) -> Callable[[TrialConfig], Any]:
    """What builds a plug-in's objective."""
    return _plugged("objective", name)[0][1]


def judge_of(name: str) -> Callable[[str, str, str], float] | None:
    """The comparison of a plug-in's judge; None for any other judge."""
    return (_plugged("judge", name) or (None,))[0]


def evaluation_of(name: str) -> tuple[Callable[[Path, Path], Mapping[str, float]], str] | None:
    """A plug-in's evaluation and the plug-in's label; None for any other evaluation."""
    return _plugged("evaluation", name) or None


def _plugged(kind: str, name: str) -> Any:
    """What a plug-in's table has under the name, and the plug-in's label; empty if none has it."""
    every = ((plugin.tables[kind], plugin.label) for plugin in _loaded.values())
    return next(((table[name], label) for table, label in every if name in table), ())


def _inherited() -> dict[str, str]:
    packed = os.environ.get(ENVIRONMENT, "")
    return json.loads(zlib.decompress(base64.b64decode(packed))) if packed else {}


def _text_of(source: str) -> tuple[str, str]:
    """Name and text of a file, or of the module that an entry point names."""
    path = Path(source).expanduser()
    if not path.is_file():
        installed = {one.name: one.module for one in entry_points(group=GROUP)}
        spec = find_spec(installed[source]) if source in installed else None
        if spec is None or spec.origin is None:
            there = f"; installed are {', '.join(installed)}" if installed else ""
            raise InputError(f"--plugin {source}: no such file, nor an entry point of {GROUP}{there}")
        path = Path(spec.origin)
    try:
        return path.stem, path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--plugin {source} cannot be read: {first_line(error)}") from error


def _execute(name: str, text: str, source: str) -> PlugIn:
    digest = hashlib.sha256(text.encode()).hexdigest()
    module = types.ModuleType(f"mmpo_plugin_{digest[:16]}")
    module.__file__ = source
    sys.modules[module.__name__] = module  # dataclasses and pickle look it up
    try:
        exec(compile(text, source, "exec"), module.__dict__)
    except Exception as error:  # whatever a person's code raises
        raise InputError(f"plug-in {source} cannot be loaded: {in_brief(error)}") from error
    return PlugIn(name, digest, {kind: getattr(module, table, {}) for table, kind in _TABLES.items()})


def _register(plugin: PlugIn, source: str) -> None:
    """Make its names known. Raises InputError with all that is wrong."""
    fields = {name for used in OBJECTIVE_FIELDS.values() for name in used}
    known = {"objective": set(OBJECTIVE_FIELDS), "judge": {"tiny"}, "evaluation": set(configs.EVALUATIONS)}
    for other in _loaded.values():
        known["judge"] |= set(other.tables["judge"])
    problems = []
    if not any(plugin.tables.values()):
        problems.append(f"it has none of the tables {', '.join(_TABLES)}")
    for kind, table in plugin.tables.items():
        for name, value in table.items():
            if name in known[kind] or not name.isidentifier() or not name.islower():
                problems.append(f"{kind} {name!r} must have a new name of lower-case letters, digits and _")
            if kind == "objective":
                pair = value if isinstance(value, tuple) and len(value) == 2 else ((), None)
                problems += [f"objective {name}: no field {one!r}{nearest(one, fields)}" for one in {*pair[0]} - fields]
                value = pair[1]
            takes = {"objective": 1, "judge": 3, "evaluation": 2}[kind]
            if not _takes(value, takes):
                problems.append(f"{kind} {name} must have a function of {takes} argument{'s' if takes > 1 else ''}")
    if problems:
        raise InputError(f"plug-in {source} cannot be used:\n  " + "\n  ".join(problems))
    _loaded[plugin.name] = plugin
    for name, (used, _) in plugin.tables["objective"].items():
        OBJECTIVE_FIELDS[name] = tuple(used)
        PLUGGED["objective", name] = plugin.label
    PLUGGED.update({("judge", name): plugin.label for name in plugin.tables["judge"]})
    configs.EVALUATIONS = (*configs.EVALUATIONS, *plugin.tables["evaluation"])
    OF_SUITE.update({name: f"{name}/" for name in plugin.tables["evaluation"]})


def _takes(function: Any, arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*range(arguments))
    except (TypeError, ValueError):
        return False
    return True
