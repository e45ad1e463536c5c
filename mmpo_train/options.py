"""The command-line options that every program here has in common."""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import tyro
from docstring_parser import parse_from_object

from mmpo_train.config import TrialConfig, parse_assignments, replace
from mmpo_train.errors import InputError
from mmpo_train.recipes import find_recipe, objective_settings, recipe_for
from mmpo_train.storage.mirror import place_of
from mmpo_train.typed.options_file import OptionsType, given_options, options_of, read_options

Repeated = tyro.conf.UseAppendAction
Positional = tyro.conf.Positional
NotTaken = (tyro.conf.Fixed, tyro.conf.Suppress)
"""Marks an inherited option that a program neither lists nor accepts: `Annotated[str, *NotTaken]`."""
Assignments = Annotated[tuple[str, ...], Repeated, tyro.conf.arg(metavar="FIELD=VALUE")]
STORAGE = os.environ.get("MMPO_STORAGE") or "runs"
"""The default of --storage."""


@cache
def with_help(options: type) -> Any:
    """The same class with each field's docstring as its help, in one paragraph, and the default if it is not empty. By
    itself tyro keeps the line breaks of the source and prints `(default: )` for an empty default."""
    for kind in options.__mro__:
        own: dict[str, Any] = vars(kind).get("__annotations__", {})
        types = get_type_hints(kind, include_extras=True) if own else {}
        for field in parse_from_object(kind).params if own else ():
            text, default = " ".join((field.description or "").split()), getattr(kind, field.arg_name, None)
            hint = "Default: {}.".format if default and "Default: " not in text else ""
            argument = tyro.conf.arg(help=text, help_behavior_hint=hint)
            own[field.arg_name] = Annotated[types[field.arg_name], argument]
            if is_dataclass(default):
                with_help(type(default))  # type: ignore[arg-type]  # a class is hashable
    return options


class Stored:
    """Options of a program that reads or writes a storage."""

    storage: str

    @property
    def folder(self) -> Path:
        """The local folder of the storage. Raises InputError for an address that cannot be one."""
        return place_of(self.storage)


@dataclass(frozen=True, kw_only=True)
class Options(Stored):
    """What to train, on which data, and where to keep it."""

    trial: ClassVar[type] = TrialConfig  # whose fields --set may name
    varied: ClassVar[tuple[str, ...]] = ()  # fields that the program's grid decides
    of_recipe: ClassVar[bool] = True  # whether the recipe of the model has the data

    config: str = ""
    """File with options, YAML or JSON: what `mmpo config` writes, or the trial.json of a trial. Options that are typed
    beside it count more. Default: none."""
    print_config: bool = False
    """Print the options in force as such a file, and start nothing."""
    plugin: Annotated[tuple[str, ...], Repeated] = ()
    """Plug-in with objectives, judges or evaluations: a Python file, or the name of an installed one. Repeat the option
    for several. Default: none."""
    objective: str = "mmpo"
    """What to train with: mmpo, dpo, simpo, rpo, exo, cpo, bco, kto, apo, sppo, nca, rnce, mc_po, on_mc_po or
    online_dpo, or one of the variants that docs/objectives.md lists."""
    model: str = "tiny"
    """Starting model: tiny (made on first use), a folder, an address in an object store, or a hub id."""
    chat_template: str = ""
    """File with a chat template (Jinja) to use in place of the model's own. Default: the model's own."""
    recipe: str = ""
    """Settings to start from: tiny, smollm2-135m, smollm2-360m, llama-3.2-1b or llama-3-8b; or any, which has only the
    paper's batch size and lengths. Default: the recipe of the hub id, or the one that the folder was tuned with."""
    settings: str = "paper"
    """paper follows the paper's text; author follows its author's code (data, truncation and rendering differ)."""
    dataset: Annotated[tuple[str, ...], Repeated] = ()
    """Preference data, as SOURCE[#CONFIG][:TRAIN_SPLIT[:VALIDATION_SPLIT]]. SOURCE is a JSON, JSONL, CSV or Parquet
    file, a folder of them, a folder written by save_to_disk, or a hub id. Repeat the option to mix sources. Default:
    the data of the recipe."""
    seed: int = 42
    """Seed of the order of the pairs, of random negatives and of LoRA's initial weights."""
    storage: str = STORAGE
    """Where to keep models, token tables, checkpoints and results: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH. The
    machines of a cluster must all reach it. Default: the value of MMPO_STORAGE, or runs."""
    set: Assignments = ()
    """Change another field of the trial, such as beta=0.05 or epochs=1. Repeat the option for more fields;
    docs/options.md lists them."""
    strict: bool = False
    """Refuse the data if any row would be dropped, or is doubtful and would only be counted."""
    drop_bad_rows: bool = False
    """Drop and count the rows for which the data would be refused otherwise."""
    show_examples: int = 0
    """Print the first N tokenised examples before any model is loaded: what is scored and what was cut. Default:
    none."""


def base_config(options: Options) -> TrialConfig:
    """The recipe of the options' model with what the options change. Raises InputError naming every bad field."""
    base = recipe_for(options.model, options.recipe, options.settings)
    own_data = find_recipe(options.model, options.recipe).preference_data(options.settings)
    base = replace(base, {"model": templated(options)})
    named = {"objective": options.objective, "seed": options.seed, "dataset": options.dataset or own_data}
    return replace(base, objective_settings(options.objective) | named | assigned_fields(options))


def assigned_fields(options: Options) -> dict[str, str]:
    """What --set changes. Raises InputError for fields that have an option, and for options that exclude each other."""
    if options.strict and options.drop_bad_rows:
        raise InputError("--strict refuses bad rows and --drop-bad-rows drops them: give one of the two")
    assigned = parse_assignments(options.set)
    for name in ("objective", "seed", "dataset", "model", "recipe"):
        if name in assigned:
            raise InputError(f"use --{name} instead of --set {name}=…")
    return assigned


def templated(options: Options) -> str:
    """The options' model, with the template of `--chat-template` if one is given."""
    if not options.chat_template:
        return options.model
    from mmpo_train.model.templated import with_template

    return with_template(options.model, options.chat_template, options.folder)


def from_file(options: type, words: Sequence[str]) -> dict[str, Any]:
    """`default`, the options of the file that `--config` names, if one is named. Raises InputError for a file that is
    not valid, and for a trial's field that is typed as an option."""
    if not issubclass(options, Options):
        return {}
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?")
    path = finder.parse_known_args(words)[0].config
    known = options_of(options)
    fields = {one.name for one in dataclasses.fields(options.trial)} - known.keys()
    typed = [(place, word[2:].partition("=")) for place, word in enumerate(words) if word.startswith("--")]
    problems = []
    for place, (name, _, value) in typed:
        if (field := name.replace("-", "_")) in fields:
            value = value or " ".join(words[place + 1 : place + 2])
            problems.append(f"--{name} is a field of the trial: give --set {field}={value}")
    if problems:
        raise InputError("\n".join(problems))
    if not path:
        return {}
    given = read_options(Path(path), options, options.varied)
    # What is typed replaces the file's sources; of --set the last of a field counts.
    if any(name == "dataset" for _, (name, _, _) in typed):
        given = dataclasses.replace(given, dataset=())
    return {"default": given}


def in_force(options: Options) -> Options:
    """The options with the recipe and the data that they stand for."""
    if not options.of_recipe:
        return options
    recipe = find_recipe(options.model, options.recipe)
    data = options.dataset or recipe.preference_data(options.settings)
    return dataclasses.replace(options, recipe=recipe.name, dataset=data)


def use_plugins(options: object) -> None:
    """Load the plug-ins that the options name. Raises InputError for one that cannot be used."""
    if sources := getattr(options, "plugin", ()):
        from mmpo_train.objectives.plugged import load_and_try

        load_and_try(sources)


def options_given(values: Mapping[str, Any], kind: type[OptionsType]) -> OptionsType:
    """The options that a call gives in Python, their plug-ins loaded. Raises InputError naming all that is wrong."""
    options = given_options(values, kind)
    use_plugins(options)
    return options
