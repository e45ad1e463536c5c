"""Splits of rows from files, folders and hub datasets. The door to `datasets`."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmpo_train.data.addresses import Address, choose_splits, near_names, refuse_missing_file, split_address
from mmpo_train.data.files import READERS, Part, Row, file_part, has_reader, numbered, table_rows
from mmpo_train.errors import InputError, in_brief
from mmpo_train.tiny import rows as tiny

# Pairs, and ranked answers to the same prompts.
EMBEDDED: dict[str, Callable[[str], Sequence[Any]]] = {
    "tiny": tiny.preference_examples,
    "tiny_ranked": tiny.ranked_examples,
}

HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Source:
    address: str
    from_hub: bool
    train: str
    validation: str | None
    """None if the source has no validation split."""
    splits: dict[str, tuple[Part, ...]]


def open_source(given: str) -> Source:
    """The splits of a source, not yet read. A hub dataset is downloaded."""
    address = split_address(given)
    place, from_hub = address.place, False
    if address.config and (place in EMBEDDED or not os.path.isdir(place) and (os.path.exists(place) or "://" in place)):
        raise InputError(f"'{given}': {place} has no configs, only folders and hub datasets have; leave out #CONFIG")
    if place in EMBEDDED:
        splits: dict[str, tuple[Part, ...]] = _embedded_splits(place)
    elif os.path.isfile(place) or "://" in place:
        splits = {"train": (file_part(place, place),)}
    elif os.path.isdir(place):
        splits = _folder_splits(address)
    else:
        refuse_missing_file(place)
        splits, from_hub = _hub_splits(address), True
    train, validation = choose_splits(str(address), list(splits), address.train, address.validation)
    return Source(address=str(address), from_hub=from_hub, train=train, validation=validation, splits=splits)


def _embedded_splits(name: str) -> dict[str, tuple[Part, ...]]:
    """Splits of the embedded data. A folder of that name is written `./tiny`."""

    def rows(split: str) -> Iterator[Row]:
        return numbered(EMBEDDED[name](split))

    return {split: (Part(name, partial(rows, split)),) for split in ("train", "validation")}


def _folder_splits(address: Address) -> dict[str, tuple[Part, ...]]:
    """Splits of a folder from save_to_disk, or of data files in the layout that `datasets` expects."""
    import datasets

    folder = address.place
    path = os.path.realpath(folder)  # load_dataset takes a bare `json` or `csv` for the name of its reader
    saved = any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))
    try:
        if saved and not address.config:
            return _dataset_splits(folder, datasets.load_from_disk(path))
        files = datasets.load_dataset_builder(path, address.config).config.data_files or {}
        if all(has_reader(file) for held in files.values() for file in held):
            return {
                str(split): tuple(file_part(file, os.path.join(folder, os.path.relpath(file, path))) for file in held)
                for split, held in files.items()
            }
        return _dataset_splits(str(address), datasets.load_dataset(path, address.config))
    except Exception as error:  # datasets raises kinds of its own, of pyarrow and of the standard library
        _refuse_config(address, path, error)
        held = ", ".join(sorted(os.listdir(folder))[:5]) or "nothing"
        raise InputError(
            f"the folder {folder} contains no readable dataset (it contains {held}): {in_brief(error)}\n"
            "expected a folder from save_to_disk, or data files named after their splits "
            f"({', '.join(READERS)})"
        ) from error


def _refuse_config(address: Address, path: str, error: Exception) -> None:
    """Raises InputError with the names of the configs if the error is about the choice of a config."""
    import datasets

    if not isinstance(error, ValueError) or "onfig" not in str(error):
        return
    try:
        names = datasets.get_dataset_config_names(path)
    except Exception:  # noqa: BLE001  (as above: then the first error is the one to be shown)
        return
    if address.config not in names:
        found = f"no config '{address.config}'" if address.config else "several configs"
        raise InputError(
            f"{address.place} has {found}; name one of {', '.join(names)}, as in {address.place}#{names[0]}"
        ) from error


def _hub_splits(address: Address) -> dict[str, tuple[Part, ...]]:
    """Splits of a hub dataset, or of its copy in the local cache if the hub cannot be reached."""
    import datasets
    import huggingface_hub

    hub_id = address.place
    remedy = (
        "for a local copy, run `hf download --repo-type dataset "
        f"{hub_id} --local-dir FOLDER` on a machine with a network, and give FOLDER instead"
    )
    unreachable = ""
    try:
        # One quick question first: load_dataset asks six times over half a minute before it gives up.
        huggingface_hub.HfApi().dataset_info(hub_id, timeout=HUB_TIMEOUT_SECONDS)
    except huggingface_hub.errors.GatedRepoError:
        page = f"https://huggingface.co/datasets/{hub_id}"
        raise InputError(f"{hub_id} requires permission: request it at {page}, then run `hf auth login`") from None
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise InputError(
            f"{hub_id} is neither a file or folder here{near_names(hub_id)} nor a dataset on the hub "
            "that this login can see: check the name; for a private dataset run `hf auth login`"
        ) from None
    except Exception as error:  # noqa: BLE001  (no route, a timeout, an overloaded hub, offline mode)
        unreachable = in_brief(error)
    with cache_only() if unreachable else contextlib.nullcontext():
        try:
            return _dataset_splits(str(address), datasets.load_dataset(hub_id, address.config), of_hub=True)
        except Exception as error:  # datasets raises kinds of its own, of pyarrow and of its HTTP library
            _refuse_config(address, hub_id, error)
            if unreachable:
                raise InputError(
                    f"{hub_id} is not a file or folder here{near_names(hub_id)}, the hub cannot be reached "
                    f"({unreachable}) and the cache has no copy: {remedy}"
                ) from None
            raise InputError(f"{hub_id} could not be loaded from the hub ({in_brief(error)}); {remedy}") from error


@contextlib.contextmanager
def cache_only() -> Iterator[None]:
    """A block in which `datasets` uses its cache and not the network, which it would ask even for local files."""
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
    return numbered(
        row
        for columns in table.iter(batch_size=1000)
        for row in table_rows([dict(zip(columns, values)) for values in zip(*columns.values())], table.features)
    )
