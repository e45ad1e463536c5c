"""Preference rows, written to files and loaded."""

import json

import pytest

from mmpo_train.data.preferences import load_preferences
from mmpo_train.errors import InputError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(number, chosen="yes", rejected="no"):
    return {"prompt": f"question {number}", "chosen": chosen, "rejected": rejected}


def pairs(count):
    return [pair(number) for number in range(count)]


def write(path, rows):
    """The rows as a JSON list, or as one object a line."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load_file(folder, rows, **options):
    return load_preferences([write(folder / "pairs.json", rows)], **options)


def everything(data):
    """All examples of a file in the order of their rows, before the hold-out took some away."""
    return sorted(data.train + data.validation, key=lambda example: example.row)


def refusal(sources, **options):
    with pytest.raises(InputError) as caught:
        load_preferences([str(source) for source in sources], **options)
    return str(caught.value)


def refused_rows(folder, rows, **options):
    return refusal([write(folder / "pairs.json", rows)], **options)


def seven(ranks=(1, 2, 3, 4, 5, 6, 7), number=0):
    """A row like Nectar's: the answer of rank n, if there is but one, is the n-th letter."""
    answers = [{"answer": letter, "rank": rank} for letter, rank in zip("abcdefg", ranks)]
    return {"prompt": f"question {number}", "answers": answers}
