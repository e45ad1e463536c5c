"""The parts of a source string: an address, one of its configs, a train and a validation split.

PATH|HUB-ID[#CONFIG][:TRAIN_SPLIT[:VALIDATION_SPLIT]]
"""

import difflib
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from mmpo_train.data.files import READERS, has_reader
from mmpo_train.errors import InputError

TRAIN_SPLITS = ("train_prefs", "train")
VALIDATION_SPLITS = ("test_prefs", "validation", "test", "validation_prefs", "eval")
FORM = "PATH or HUB-ID, then #CONFIG and :TRAIN_SPLIT:VALIDATION_SPLIT if wanted"
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_LOOKS_LIKE_FILE = re.compile(r".*\.(txt|tsv|xlsx?|gz|zst|bz2|xz|zip|tar|arrow|pickle|pkl|py|yaml|pt)", re.IGNORECASE)


class Address(NamedTuple):
    """The parts of a source string; None for a part that it does not name."""

    place: str
    """A path, a hub id or a URL."""
    config: str | None
    """One of the data set's configs."""
    train: str | None
    validation: str | None

    def __str__(self) -> str:
        return f"{self.place}#{self.config}" if self.config else self.place


def split_address(given: str) -> Address:
    """The parts of a source string. Raises InputError for a malformed one. The place is the longest beginning that
    exists or ends like a data file, since a path may contain colons and hashes."""
    pieces = given.split(":")
    if not pieces[0].partition("#")[0].strip():
        raise InputError(f"'{given}' is not a source; expected {FORM}")
    cuts = [
        (":".join(pieces[: len(pieces) - tail]), pieces[len(pieces) - tail :]) for tail in range(min(3, len(pieces)))
    ]
    for matches in (os.path.exists, has_reader):
        for beginning, splits in cuts:
            for place, config in _with_and_without_config(beginning):
                if place and matches(place):
                    return _named(place, config, splits)
    if "://" in given:
        raise InputError(f"{given}: over a network only single files can be read, ending in {', '.join(READERS)}")
    beginning, splits = cuts[-1]
    if ":" in beginning:
        raise InputError(f"'{given}' has too many colons; expected {FORM}")
    return _named(*_with_and_without_config(beginning)[-1], splits)


def _with_and_without_config(beginning: str) -> list[tuple[str, str]]:
    place, mark, config = beginning.rpartition("#")
    whole = [(os.path.expanduser(beginning), "")]
    return [*whole, (os.path.expanduser(place), config)] if mark and ":" not in config else whole


def _named(place: str, config: str, splits: Sequence[str]) -> Address:
    train, validation = (*splits, "", "")[:2]
    return Address(place, config or None, train or None, validation or None)


def choose_splits(
    address: str, names: Sequence[str], train: str | None, validation: str | None
) -> tuple[str, str | None]:
    """The train and the validation split: those that were named, otherwise those with the usual names."""
    have = f"{address} has: {', '.join(names)}"
    for asked in (train, validation):
        if asked is not None and asked not in names:
            near = difflib.get_close_matches(asked, names, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(f"no split '{asked}'; {hint}{have}")
    if train is None:
        customary = [name for name in TRAIN_SPLITS if name in names and name != validation]
        left = [name for name in names if name != validation]
        if not customary and len(left) > 1:
            raise InputError(f"the split to train on must be named, as in {address}:{left[0]}; {have}")
        train = (customary or left or names)[0]
    if validation is None:
        validation = next((name for name in VALIDATION_SPLITS if name in names and name != train), None)
    if train == validation:
        raise InputError(
            f"{address}: '{train}' is named as both train and validation split; "
            f"name two, or leave out the second to hold out part of the first ({have})"
        )
    return train, validation


def refuse_missing_file(address: str) -> None:
    """Raises InputError if `address`, which does not exist, can only be a path."""
    folder = os.path.dirname(address) or "."
    if os.path.isdir(folder):
        near = near_names(address)
    else:
        near = f"; there is no folder {folder}"
    if has_reader(address) or _LOOKS_LIKE_FILE.fullmatch(address) or not _HUB_ID.fullmatch(address):
        raise InputError(f"no file or folder {address}{near} (looked for {os.path.abspath(address)})")


def near_names(address: str) -> str:
    """Files in the address's folder with a similar name, in brackets; empty if there are none."""
    folder, name = os.path.split(address)
    if not os.path.isdir(folder or "."):
        return ""
    near = difflib.get_close_matches(name, os.listdir(folder or "."), n=3)
    return f" (did you mean {' or '.join(os.path.join(folder, found) for found in near)}?)" if near else ""
