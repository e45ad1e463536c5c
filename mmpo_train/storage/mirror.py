"""One `--storage` on every node: a folder, or an object store of which each node holds a copy of what it has used.

The copy of `s3://bucket/path` lies in `$MMPO_CACHE/s3/bucket/path` (default: ~/.cache/mmpo-sweeps), which is local to
its node. A folder there is published once it is sealed (`manifest`), its manifest last, and fetched where it is not
whole, so that what is read is always a verified local folder. As a node's disk fills, copies of checkpoints and states
that it has not used for long go. Of a storage that is a folder by itself nothing is ever copied: all of this does
nothing then.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mmpo_train.errors import InputError
from mmpo_train.storage import object_store
from mmpo_train.storage.manifest import (
    MANIFEST,
    DamagedFolder,
    is_whole,
    lock,
    put_in_place,
    read_manifest,
    verify,
    write_folder,
)
from mmpo_train.storage.whole_file import write_whole

_FREE_SHARE = 0.2
"""Of a node's disk, where it has copies."""
_UNUSED_SECONDS = 3600.0
"""A copy that was used later than this is kept, whatever the disk has."""


def place_of(name: str | Path) -> Path:
    """Where a storage, or what `name_of` has named, lies on this node. Raises InputError for no such storage."""
    if not object_store.is_address(str(name)):
        return Path(name)
    scheme, path = object_store.parts_of(str(name))
    return _cache() / scheme / path


def name_of(path: Path) -> str:
    """What every node calls the path: its address in the object store, or its absolute path where there is none."""
    return address_of(path) or str(path.resolve())


def address_of(path: Path) -> str:
    """The address of which the path is a copy; empty for any other path."""
    resolved = path.resolve()
    for scheme in object_store.SCHEMES:
        copies = _cache() / scheme
        if resolved != copies and resolved.is_relative_to(copies):
            return f"{scheme}://{resolved.relative_to(copies).as_posix()}"
    return ""


def bring(name: str | Path) -> Path:
    """The place of a sealed folder that another node has named, with the folder in it where there is one."""
    place = place_of(name)
    fetch(place)
    return place


def need(name: str | Path) -> Path:
    """What `bring` gives. Raises InputError where there is no such folder."""
    place = bring(name)
    if not place.is_dir():
        raise InputError(
            f"{name} is not on {socket.gethostname()}: several machines need a --storage that is a folder shared by "
            "all of them, or s3://BUCKET/PATH"
        )
    return place


def check_access(storage: Path) -> None:
    """Raises InputError within seconds for an object store in which this node cannot write, read and delete."""
    if address := address_of(storage):
        object_store.check_access(address)


def fetch(folder: Path) -> None:
    """Bring a sealed folder where it is not whole here; afterwards it is, or there is none.

    What does not fit its manifest in the object store is no longer published: whoever needs it makes it anew.
    """
    address = address_of(folder)
    if not address or _is_whole(folder):
        return
    with _lock(address):
        if _is_whole(folder):
            return
        if not any(_download(address, folder) for _ in range(2)):  # it may have been replaced meanwhile
            object_store.remove(f"{address}/{MANIFEST}")


def is_here(folder: Path) -> bool:
    """Whether a sealed folder is whole on this node, fetched where it was not."""
    fetch(folder)
    return _is_whole(folder)


def ensure(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have a sealed folder on this node: fetched, or filled here, by one process of however many ask for it."""
    with lock(folder):
        if not is_here(folder):
            write_folder(folder, fill)


def fetch_children(folder: Path) -> None:
    """Bring every sealed folder that lies directly in this one."""
    if address := address_of(folder):
        for name in _children(address):
            fetch(folder / name)


def publish(folder: Path) -> None:
    """Have other nodes find a sealed folder; nothing to do where it is published, or is not here."""
    address = address_of(folder)
    if not address or not (folder / MANIFEST).is_file():
        return
    manifest = (folder / MANIFEST).read_bytes()
    published = object_store.read(f"{address}/{MANIFEST}")
    if published == manifest:
        return
    if published is not None:
        object_store.remove(f"{address}/{MANIFEST}")
    object_store.upload(folder, read_manifest(folder), address)
    object_store.write(f"{address}/{MANIFEST}", manifest)
    make_room()


def make_room() -> None:
    """Where little of the disk is free, remove copies of what trials have written, the longest unused first.

    Only what the object store has, as it is here, goes.
    """
    cache = _cache()
    if _is_room(cache):
        return
    sealed = [path for scheme in object_store.SCHEMES for path in cache.glob(f"{scheme}/**/trials/*/*/*/{MANIFEST}")]
    for manifest in sorted(sealed, key=_used):
        if _is_room(cache):
            return
        # Not to wait for another's lock while one is held. What is being brought is in use.
        with suppress(Timeout), _lock(address_of(manifest.parent)).acquire(timeout=0):
            if time.time() - _used(manifest) >= _UNUSED_SECONDS:  # nor has another process removed or used it by now
                _remove_copy(manifest.parent)


def _remove_copy(folder: Path) -> None:
    published = object_store.read(f"{address_of(folder)}/{MANIFEST}")
    if published is not None and (folder / MANIFEST).read_bytes() == published:
        going = folder.with_name(f".going-{folder.name}")
        folder.rename(going)  # half of a folder must not look like one
        shutil.rmtree(going)


def _used(manifest: Path) -> float:
    """When the folder was used last, as seconds; now where it has just gone."""
    return manifest.stat().st_mtime if manifest.is_file() else time.time()


def _is_whole(folder: Path) -> bool:
    """Whether it is whole; it counts as used now."""
    with suppress(FileNotFoundError):
        os.utime(folder / MANIFEST)
    return is_whole(folder)


def _is_room(cache: Path) -> bool:
    usage = shutil.disk_usage(cache)
    return usage.free > _FREE_SHARE * usage.total


def withdraw(folder: Path) -> None:
    """The inverse of `publish`, for all nodes; what is here stays."""
    if address := address_of(folder):
        object_store.remove(f"{address}/{MANIFEST}")  # first: half of a folder must not look like one
        for name in object_store.files_below(address):
            object_store.remove(f"{address}/{name}")


def withdraw_others(folder: Path) -> None:
    """Withdraw all sealed folders that lie beside this one."""
    if address := address_of(folder.parent):
        for name in _children(address):
            if name != folder.name:
                withdraw(folder.with_name(name))


def fetch_file(path: Path) -> None:
    """Bring a file that is not here, where it is published."""
    address = address_of(path)
    if not address or path.exists():
        return
    content = object_store.read(address)
    if content is not None:
        write_whole(path, content)


def publish_file(path: Path) -> None:
    """Have other nodes find a file as it is now."""
    if address := address_of(path):
        object_store.write(address, path.read_bytes())


def publish_files(folder: Path) -> None:
    """Have other nodes find all files of a folder that is not sealed."""
    if address := address_of(folder):
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        object_store.upload(folder, names, address)


def fetch_files(folder: Path) -> None:
    """Bring what `publish_files` has published, over what is here."""
    if address := address_of(folder):
        object_store.download(address, object_store.files_below(address), folder)


def _cache() -> Path:
    return Path(os.environ.get("MMPO_CACHE") or "~/.cache/mmpo-sweeps").expanduser().resolve()


def _lock(address: str) -> FileLock:
    locks = _cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / hashlib.sha256(address.encode()).hexdigest()[:32])


def _children(address: str) -> list[str]:
    paths = [name.split("/") for name in object_store.files_below(address)]
    return [path[0] for path in paths if path[1:] == [MANIFEST]]


def _download(address: str, folder: Path) -> bool:
    """Whether the folder is whole here now, or there is none to bring."""
    manifest = object_store.read(f"{address}/{MANIFEST}")
    if manifest is None:
        return True
    make_room()
    staging = folder.with_name(f".fetching-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    (staging / MANIFEST).write_bytes(manifest)
    try:
        object_store.download(address, read_manifest(staging), staging)
        verify(staging)
    except (DamagedFolder, FileNotFoundError):
        shutil.rmtree(staging)
        return False
    put_in_place(staging, folder)
    return True
