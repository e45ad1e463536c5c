"""A model's folder: found, named by content, copied to where every node finds it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mmpo_train.errors import InputError, first_line
from mmpo_train.events import Say
from mmpo_train.storage.manifest import is_whole, lock, write_folder
from mmpo_train.storage.mirror import address_of, bring, is_here, publish
from mmpo_train.storage.object_store import is_address
from mmpo_train.storage.whole_file import write_whole

# What makes a model what it is. Pickled weights (*.bin, *.pt) are not among them: they are never read.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
TOKENIZER_FILES = ("*token*.json", "tokenizer.model", "vocab.json", "merges.txt", "*.jinja", "generation_config.json")
_HUB_TIMEOUT_SECONDS = "10"


def for_all_nodes(model: Path, named: str, storage: Path, say: Say) -> Path:
    """The folder of a model, `named` by a person, where every node finds it: an object store gets a copy of it."""
    if not address_of(storage):
        return model
    if not (address_of(model) and is_whole(model)):
        name = fingerprint(model, storage / "fingerprints.json")[:16]
        model, given = storage / "models" / f"{Path(named).name}-{name}", model
        with lock(model):
            if not is_here(model):
                say("copying the model", 0.0)
                write_folder(model, lambda staging: copy_model(given, staging))
    say("publishing the model", 0.0)
    publish(model)
    return model


def local_folder(model: str, files: Sequence[str] = _MODEL_FILES) -> Path:
    """The folder of a model given as a folder or a hub id; a hub model's `files` are downloaded on first use.

    So is a folder that this project has published in an object store, given by its address. Raises InputError where
    there is no such folder or hub model, or the hub cannot be reached.
    """
    if is_address(model):
        folder = bring(model)
        if not folder.is_dir():
            raise InputError(f"there is no whole model or checkpoint at {model}; give one that this project has made")
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
        return Path(snapshot_download(model, allow_patterns=list(files)))
    except HFValidationError as error:
        raise InputError(f"{model!r} is neither a folder, nor a hub id (owner/name), nor 'tiny'") from error
    except Exception as error:  # the hub's own kinds and those of its HTTP library, another one from release to release
        raise InputError(
            f"model {model!r} could not be had from the hub ({first_line(error)}); check the name and the network, "
            "log in with `hf auth login` if it is gated, or give a local folder that holds it"
        ) from error


def fingerprint(folder: Path, cache: Path) -> str:
    """SHA-256 over a model folder's weights, configuration, tokenizer and template.

    Hashing gigabytes takes a while, so each file's sum is kept in `cache` under its path, size and time of change.
    """
    known: dict[str, str] = json.loads(cache.read_text()) if cache.is_file() else {}
    whole, fresh = hashlib.sha256(), False
    for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)}):
        if path.name in ("manifest.json", "trial.json", "sft.json"):
            continue
        status = path.stat()
        key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        if key not in known:
            with open(path, "rb") as stream:
                known[key], fresh = hashlib.file_digest(stream, "sha256").hexdigest(), True
        whole.update(f"{path.name} {known[key]}\n".encode())
    if fresh:
        write_whole(cache, json.dumps(known, indent=1))
    return whole.hexdigest()


def copy_model(folder: Path, target: Path) -> None:
    """The files of a model folder that `fingerprint` goes by, in another folder."""
    for path in {path for pattern in _MODEL_FILES for path in folder.glob(pattern)} - {folder / "manifest.json"}:
        shutil.copyfile(path, target / path.name)
