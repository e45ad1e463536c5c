"""Finding a model's folder, naming it by content, and copying it to where every node finds it."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpo_train.config import SFT, TRIAL
from mmpo_train.errors import InputError, first_line
from mmpo_train.events import Say
from mmpo_train.storage.manifest import MANIFEST, is_whole
from mmpo_train.storage.mirror import address_of, bring, ensure, publish
from mmpo_train.storage.object_store import is_address
from mmpo_train.storage.whole_file import read_cache, sha256_of, write_cache
from mmpo_train.typed.programs import as_typed

# What of a model is downloaded. Pickled weights (*.bin, *.pt) are not among it: they are never read.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "additional_chat_templates/*.jinja")
TOKENIZER_FILES = ("*token*.json", "tokenizer.model", "vocab.json", "merges.txt", "*.jinja", "generation_config.json")
_WEIGHTS, ADAPTERS = "model.safetensors", "adapter_model.safetensors"
_OURS = (MANIFEST, TRIAL, SFT)
_HUB_TIMEOUT_SECONDS = "10"


def for_all_nodes(model: Path, named: str, storage: Path, say: Say) -> Path:
    """The folder of a model, `named` by the user, where every node finds it; an object store gets a copy."""
    if not address_of(storage):
        return model
    if not (address_of(model) and is_whole(model)):
        name = fingerprint(model, storage / "fingerprints.json")[:16]
        model, given = storage / "models" / f"{Path(named).name}-{name}", model

        def fill(staging: Path) -> None:
            say("copying the model", 0.0)
            copy_model(given, staging)

        ensure(model, fill)
    say("publishing the model", 0.0)
    publish(model)
    return model


def local_folder(model: str, files: Sequence[str] = _MODEL_FILES) -> Path:
    """The folder of a model given as a folder or a hub id; a hub model's `files` are downloaded on first use.

    A folder that this project has published in an object store is downloaded too, given its address. Raises InputError
    if there is no such folder or hub model, or the hub cannot be reached.
    """
    if is_address(model):
        folder = bring(model)
        if not folder.is_dir():
            raise InputError(f"{model} has no complete model or checkpoint; give one that this project has made")
        return folder
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"model {model!r} is a file; give the folder that holds config.json and *.safetensors")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"model folder {model!r} does not exist; give a folder, a hub id (owner/name) or 'tiny'")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", _HUB_TIMEOUT_SECONDS)
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", _HUB_TIMEOUT_SECONDS)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        # Mistral's repositories hold their weights twice.
        return Path(snapshot_download(model, allow_patterns=list(files), ignore_patterns=["consolidated*"]))
    except HFValidationError as error:
        raise InputError(f"{model!r} is neither a folder, nor a hub id (owner/name), nor 'tiny'") from error
    except Exception as error:  # the hub's own errors and those of its HTTP library, which changes between releases
        raise InputError(
            f"model {model!r} could not be loaded from the hub ({first_line(error)}); check the name and the network, "
            "log in with `hf auth login` if it is gated, or give a local folder that holds it"
        ) from error


def starting_model(model: str) -> Path:
    """The folder of a model to be trained, as `local_folder` finds it. Raises InputError where it has no weights, or
    adapters alone."""
    folder = local_folder(model)
    if require_weights(folder) == [folder / ADAPTERS]:
        raise InputError(
            f"{model} holds LoRA adapters, and training starts from a whole model: make one with "
            f"`{as_typed(f'mmpo merge {model} FOLDER')}` and give --model FOLDER"
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files whose tensors are the model, as transformers chooses them; what else lies there, pickles and other
    safetensors, is no part of it. Empty without weights. Raises InputError for a folder that holds two models."""
    chosen = str(json_of(folder / "config.json").get("transformers_weights") or _WEIGHTS)
    if not (folder / chosen).is_file():
        chosen = f"{_WEIGHTS}.index.json"
    names = set((json_of(folder / chosen).get("weight_map") or {}).values()) if chosen.endswith(".json") else {chosen}
    whole = [folder / str(name) for name in sorted(names)]
    if lost := [path.name for path in whole if path.parent != folder or not path.is_file()]:
        raise InputError(f"{folder / chosen} names files that are not beside it ({', '.join(lost[:3])}); copy them too")
    if not (folder / "adapter_config.json").is_file():
        return _inside(folder, whole)
    if whole:
        raise InputError(
            f"{folder} holds a whole model ({whole[0].name}) and LoRA adapters (adapter_config.json), two in one "
            "folder: move the adapters away, or merge them into their base with `mmpo merge`"
        )
    return _inside(folder, [path for path in (folder / ADAPTERS,) if path.is_file()])


def require_weights(folder: Path) -> list[Path]:
    """`weight_files`. Raises InputError where there are none."""
    if files := weight_files(folder):
        return files
    raise InputError(
        f"model folder {folder} has no {_WEIGHTS}, nor an index with the parts of one, nor {ADAPTERS}; pickled weights "
        "are not read: convert them first"
    )


def model_files(folder: Path) -> list[Path]:
    """All that makes a model what it is: weights, configuration, tokenizer and template, in order of their names."""
    others = {path for pattern in _MODEL_FILES[1:] for path in folder.glob(pattern)}
    return sorted({*weight_files(folder), *_inside(folder, [path for path in others if path.name not in _OURS])})


def _inside(folder: Path, files: list[Path]) -> list[Path]:
    """The files themselves. Raises InputError for a symbolic link that leads out of the folder: what stands there would
    be read, copied and published as if it were the model's.

    It may lead to the blobs of a hub's cache, and in a folder that we have sealed from weights to those of another.
    """
    for path in files:
        if not path.is_symlink():
            continue
        target, home = path.resolve(), folder.resolve()
        blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
        ours = ".safetensors" in path.name and path.name in _written(folder)
        if not (ours or target.is_relative_to(home) or target.is_relative_to(blobs)):
            raise InputError(f"{path} is a symbolic link out of its folder, to {target}; put the file itself there")
    return files


def _written(folder: Path) -> dict[str, str]:
    """File -> SHA-256 when we wrote it; empty for folders of others."""
    sums = json_of(folder / MANIFEST).get("sha256")
    return sums if isinstance(sums, dict) else {}


def json_of(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, or the file is missing or broken."""
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def base_of(folder: Path) -> str:
    """The model that LoRA adapters belong to: a folder, a hub id or an address; empty for a whole model."""
    return str(json_of(folder / "adapter_config.json").get("base_model_name_or_path") or "")


def fingerprint(folder: Path, cache: Path) -> str:
    """SHA-256 over a model folder's `model_files`: weights, configuration, tokenizer and template. Hashing gigabytes
    takes time, so each file's sum is kept in `cache` under its path, size and time of change. Raises InputError where
    weights of ours are not those that were written."""
    known: dict[str, str] = read_cache(cache)
    whole, fresh, written = hashlib.sha256(), False, _written(folder)
    for path in model_files(folder):
        status = path.stat()
        key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        if key not in known:
            known[key], fresh = sha256_of(path), True
        if path.suffix == ".safetensors" and written.get(path.name, known[key]) != known[key]:
            raise InputError(
                f"{path} has changed since it was written (its sum in {MANIFEST} is another): give another checkpoint, "
                f"or delete {MANIFEST} if you changed it yourself"
            )
        whole.update(f"{path.relative_to(folder)} {known[key]}\n".encode())
    if fresh:
        write_cache(cache, known)
    return whole.hexdigest()


def copy_model(folder: Path, target: Path) -> None:
    """Copy the files of a model folder that `fingerprint` covers to another folder."""
    for path in {*model_files(folder), *(folder / name for name in (TRIAL, SFT) if (folder / name).is_file())}:
        place = target / path.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
