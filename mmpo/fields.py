"""List the fields that `--set` may change, with meaning and default: `mmpo fields`."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, NamedTuple

from mmpo_train.config import FINGERPRINTS, TrialConfig
from mmpo_train.options import Positional

NOT_SET = (*FINGERPRINTS, "plugins", "cloned_from", "objective", "model", "dataset", "recipe", "seed")
"""Fields that the program fills in or that have an option of their own."""


class Field(NamedTuple):
    """A field of a trial."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class FieldsOptions:
    """List the fields that --set may change, with meaning and default."""

    words: Annotated[tuple[str, ...], Positional] = ()
    """List only fields whose name or meaning has one of these words."""
    sft: bool = False
    """List the fields of an instruction tuning."""


def fields_of(kind: type) -> Iterator[Field]:
    """The fields that `--set` may name. What an instruction tuning does not explain, a trial does."""
    from docstring_parser import parse_from_object

    documented = [*parse_from_object(TrialConfig).params, *parse_from_object(kind).params]
    said = {one.arg_name: " ".join((one.description or "").split()) for one in documented}
    for one in fields(kind):
        if one.name not in NOT_SET:
            yield Field(one.name, _default(one.default), said[one.name])


def show(options: FieldsOptions) -> None:
    """Print the fields as a table."""
    from rich.table import Table

    from mmpo_train.sft.trial import SFTTrial
    from mmpo_train.terminal import console

    table = Table("field", "default", "meaning", title="--set FIELD=VALUE", title_justify="left")
    for field in fields_of(SFTTrial if options.sft else TrialConfig):
        text = f"{field.name} {field.meaning}".lower()
        if not options.words or any(word.lower() in text for word in options.words):
            table.add_row(*field)
    console.print(table)


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if type(value) is float else str(value).lower() if type(value) is bool else str(value)


def main(arguments: list[str] | None = None) -> None:
    """List them from the command line."""
    from mmpo_train.terminal import run_program

    run_program(FieldsOptions, show, "mmpo fields", arguments)


if __name__ == "__main__":
    main()
