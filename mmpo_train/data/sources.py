"""Where preference rows come from: files, folders and hub datasets -> splits of rows.

A source is `PATH|HUB-ID[:TRAIN_SPLIT[:VALIDATION_SPLIT]]`, `tiny` or `tiny_ranked`. This is the project's
one door to `datasets`.
"""

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmpo_train.data.files import READERS, Part, Row, file_part, has_reader, in_brief
from mmpo_train.errors import InputError
from mmpo_train.tiny import rows as tiny

TRAIN_SPLITS = ("train_prefs", "train")
VALIDATION_SPLITS = ("test_prefs", "validation", "test", "validation_prefs", "eval")

# Pairs, and ranked answers to the same prompts.
EMBEDDED: dict[str, Callable[[str], Sequence[Any]]] = {
    "tiny": tiny.preference_examples,
    "tiny_ranked": tiny.ranked_examples,
}

HUB_TIMEOUT_SECONDS = 10.0
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_LOOKS_LIKE_FILE = re.compile(r".*\.(txt|tsv|xlsx?|gz|zip|arrow|pickle|pkl|py|yaml|pt)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    address: str
    from_hub: bool
    train: str
    validation: str | None
    """None where the source has no split for it."""
    splits: dict[str, tuple[Part, ...]]


def open_source(given: str) -> Source:
    """The splits behind a source string, chosen but not yet read (a hub dataset is downloaded)."""
    address, train, validation = split_address(given)
    from_hub = False
    if address in EMBEDDED:
        splits: dict[str, tuple[Part, ...]] = _embedded_splits(address)
    elif os.path.isfile(address) or "://" in address:
        splits = {"train": (file_part(address, address),)}
    elif os.path.isdir(address):
        splits = _folder_splits(address)
    else:
        _refuse_missing_file(address)
        splits, from_hub = _hub_splits(address), True
    train, validation = choose_splits(address, list(splits), train, validation)
    return Source(address=address, from_hub=from_hub, train=train, validation=validation, splits=splits)


def split_address(given: str) -> tuple[str, str | None, str | None]:
    """Address, train split and validation split of a source string; None for a split that is not named.

    The longest beginning that exists, or ends like a data file, is the address: a path may hold a colon.
    """
    pieces = given.split(":")
    tails = range(min(3, len(pieces)))
    cuts = [
        (os.path.expanduser(":".join(pieces[: len(pieces) - tail])), pieces[len(pieces) - tail :]) for tail in tails
    ]
    if not pieces[0].strip():
        raise InputError(
            f"'{given}' is no source: expected PATH or HUB-ID, then :TRAIN_SPLIT:VALIDATION_SPLIT if wanted"
        )
    for matches in (os.path.exists, has_reader):
        for address, splits in cuts:
            if address and matches(address):
                return _named(address, splits)
    if "://" in given:
        raise InputError(f"{given}: over a network only single files can be read, ending in {', '.join(READERS)}")
    address, splits = cuts[-1]
    if ":" in address:
        raise InputError(f"'{given}' has too many colons: expected PATH|HUB-ID[:TRAIN_SPLIT[:VALIDATION_SPLIT]]")
    return _named(address, splits)


def _named(address: str, splits: Sequence[str]) -> tuple[str, str | None, str | None]:
    train, validation = (*splits, "", "")[:2]
    return address, train or None, validation or None


def choose_splits(
    address: str, names: Sequence[str], train: str | None, validation: str | None
) -> tuple[str, str | None]:
    """The train and the validation split: those asked for, else the customary ones; never a union."""
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
            raise InputError(f"which split to train on? name it, as in {address}:{left[0]}; {have}")
        train = (customary or left or names)[0]
    if validation is None:
        validation = next((name for name in VALIDATION_SPLITS if name in names and name != train), None)
    if train == validation:
        raise InputError(
            f"{address}: '{train}' is named as both train and validation split; "
            f"name two, or leave out the second to hold out part of the first ({have})"
        )
    return train, validation


def _embedded_splits(name: str) -> dict[str, tuple[Part, ...]]:
    """Data which the project makes itself (a folder of that name is `./tiny`)."""

    def rows(split: str) -> Iterator[Row]:
        for number, row in enumerate(EMBEDDED[name](split), 1):
            yield Row(number, f"row {number}", row)

    return {split: (Part(name, partial(rows, split)),) for split in ("train", "validation")}


def _folder_splits(folder: str) -> dict[str, tuple[Part, ...]]:
    """A folder written by save_to_disk, or one of data files laid out as `datasets` expects them."""
    import datasets

    path = os.path.realpath(folder)  # load_dataset takes a bare `json` or `csv` for the name of its reader
    saved = [name for name in ("dataset_dict.json", "state.json") if os.path.isfile(os.path.join(path, name))]
    try:
        if saved:
            return _dataset_splits(folder, datasets.load_from_disk(path))
        files = datasets.load_dataset_builder(path).config.data_files or {}
        if all(has_reader(file) for held in files.values() for file in held):
            return {
                str(split): tuple(file_part(file, os.path.join(folder, os.path.relpath(file, path))) for file in held)
                for split, held in files.items()
            }
        return _dataset_splits(folder, datasets.load_dataset(path))
    except Exception as error:  # datasets raises kinds of its own, of pyarrow and of the standard library
        held = ", ".join(sorted(os.listdir(folder))[:5]) or "nothing"
        raise InputError(
            f"the folder {folder} holds no dataset that can be read (it holds {held}): {in_brief(error)}\n"
            "expected a folder from save_to_disk, or data files named after their splits "
            f"({', '.join(READERS)})"
        ) from error


def _hub_splits(hub_id: str) -> dict[str, tuple[Part, ...]]:
    """The splits of a hub dataset, or of its copy in the local cache where the hub cannot be reached."""
    import datasets
    import huggingface_hub

    remedy = (
        "for a local copy, run `hf download --repo-type dataset "
        f"{hub_id} --local-dir FOLDER` where there is a network, and give FOLDER instead"
    )
    unreachable = ""
    try:
        # One quick question first: load_dataset asks six times over half a minute before it gives up.
        huggingface_hub.HfApi().dataset_info(hub_id, timeout=HUB_TIMEOUT_SECONDS)
    except huggingface_hub.errors.GatedRepoError:
        page = f"https://huggingface.co/datasets/{hub_id}"
        raise InputError(f"{hub_id} asks for permission: request it at {page}, then run `hf auth login`") from None
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise InputError(
            f"{hub_id} is neither a file or folder here{_near_names(hub_id)} nor a dataset on the hub "
            "that this login can see: check the name; for a private one run `hf auth login`"
        ) from None
    except Exception as error:  # noqa: BLE001  (no route, a timeout, an overloaded hub, offline mode)
        unreachable = in_brief(error)
    try:
        with _cache_only() if unreachable else contextlib.nullcontext():
            return _dataset_splits(hub_id, datasets.load_dataset(hub_id), of_hub=True)
    except Exception as error:  # datasets raises kinds of its own, of pyarrow and of its HTTP library
        if unreachable:
            raise InputError(
                f"{hub_id} is no file or folder here{_near_names(hub_id)}, the hub cannot be reached "
                f"({unreachable}) and the cache holds no copy: {remedy}"
            ) from None
        raise InputError(f"{hub_id} could not be loaded from the hub ({in_brief(error)}); {remedy}") from error


@contextlib.contextmanager
def _cache_only() -> Iterator[None]:
    """Within, load_dataset looks into its cache and at no network."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _dataset_splits(address: str, loaded: Any, of_hub: bool = False) -> dict[str, tuple[Part, ...]]:
    tables = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    several = len(tables) > 1 or of_hub
    return {
        str(split): (Part(f"{address}:{split}" if several else address, partial(_dataset_rows, table)),)
        for split, table in tables.items()
    }


def _dataset_rows(table: Any) -> Iterator[Row]:
    number = 0
    for columns in table.iter(batch_size=1000):
        for values in zip(*columns.values()):
            number += 1
            yield Row(number, f"row {number}", dict(zip(columns, values)))


def _refuse_missing_file(address: str) -> None:
    """InputError if `address`, which does not exist, can be nothing but a path."""
    folder = os.path.dirname(address) or "."
    if os.path.isdir(folder):
        near = _near_names(address)
    else:
        near = f"; there is no folder {folder}"
    if has_reader(address) or _LOOKS_LIKE_FILE.fullmatch(address) or not _HUB_ID.fullmatch(address):
        raise InputError(f"no file or folder {address}{near} (looked for {os.path.abspath(address)})")


def _near_names(address: str) -> str:
    folder, name = os.path.split(address)
    if not os.path.isdir(folder or "."):
        return ""
    near = difflib.get_close_matches(name, os.listdir(folder or "."), n=3)
    return f" (did you mean {' or '.join(os.path.join(folder, found) for found in near)}?)" if near else ""
