"""One `--storage` for all nodes: a shared folder, or an object store of which each node caches the parts it uses.

The cache of `s3://bucket/path` is `$MMPO_CACHE/s3/bucket/path` (default: ~/.cache/mmpo-sweeps), local to its node. A
sealed folder (`manifest`) there is published, its manifest last. It is fetched if it is missing or damaged, so that
every folder read is local and verified. As a node's disk fills, copies of checkpoints and states that it has not used
for long are removed. If the storage is a folder itself, these functions do nothing.
"""

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

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
"""Share of a node's disk that caches should leave free."""
_UNUSED_SECONDS = 3600.0
"""A copy that was used within this time is kept even if the disk is full."""


def place_of(name: str | Path) -> Path:
    """Local path of a storage, or of a name from `name_of`. Raises InputError for a malformed address."""
    if not object_store.is_address(str(name)):
        return Path(name)
    scheme, path = object_store.parts_of(str(name))
    return _cache() / scheme / path


def name_of(path: Path) -> str:
    """A name of the path for all nodes: its address in the object store, or the absolute path without a store."""
    return address_of(path) or str(path.resolve())


def address_of(path: Path) -> str:
    """Address of which the path is the local copy; empty for any other path."""
    resolved = path.resolve()
    for scheme in object_store.SCHEMES:
        copies = _cache() / scheme
        if resolved != copies and resolved.is_relative_to(copies):
            return f"{scheme}://{resolved.relative_to(copies).as_posix()}"
    return ""


def bring(name: str | Path) -> Path:
    """Local path of a sealed folder that another node has named; the folder is fetched if it exists."""
    place = place_of(name)
    fetch(place)
    return place


def need(name: str | Path) -> Path:
    """Local path of a sealed folder, as from `bring`. Raises InputError if the folder does not exist."""
    place = bring(name)
    if not place.is_dir():
        raise InputError(
            f"{name} is not on {socket.gethostname()}: several machines need a --storage that is a folder shared by "
            "all of them, or s3://BUCKET/PATH"
        )
    return place


def check_access(storage: Path) -> None:
    """Raises InputError within seconds if this node cannot write, read and delete in the object store."""
    if address := address_of(storage):
        object_store.check_access(address)


def fetch(folder: Path) -> None:
    """Download a sealed folder unless it is whole here; afterwards it is whole or absent. A folder that does not match
    its manifest in the object store is withdrawn, so that it is made again."""
    address = address_of(folder)
    if not address or _is_whole(folder):
        return
    with _lock(address):
        if _is_whole(folder):
            return
        if not any(_download(address, folder) for _ in range(2)):  # it may have been replaced meanwhile
            object_store.remove(f"{address}/{MANIFEST}")


def is_here(folder: Path) -> bool:
    """Whether a sealed folder is whole on this node, after fetching it if necessary."""
    fetch(folder)
    return _is_whole(folder)


def ensure(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have a sealed folder on this node: fetched, or filled here, by one process of however many ask for it."""
    with lock(folder):
        if not is_here(folder):
            write_folder(folder, fill)


def ensure_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have a sealed folder as from `ensure`, but fill it once per machine: each storage gets a copy of the cache's. Its
    name must say what it is made of. Without a cache that can be written it is filled here."""
    kept = _cache() / "made" / folder.name

    def copy(staging: Path) -> None:
        if not _can_be_written(kept):
            fill(staging)
            return
        ensure(kept, fill)
        shutil.copytree(kept, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))

    ensure(folder, copy)


@contextmanager
def kept_by_machine(name: str) -> Iterator[Path]:
    """A file of this machine's cache that this process alone uses inside; without a cache that can be written it is one
    that goes again."""
    with TemporaryDirectory() as passing:
        kept = _cache() / name
        kept = kept if _can_be_written(kept) else Path(passing, kept.name)
        with lock(kept):
            yield kept


def fetch_children(folder: Path) -> None:
    """Fetch every sealed folder directly inside this one."""
    if address := address_of(folder):
        for name in _children(address):
            fetch(folder / name)


def publish(folder: Path) -> None:
    """Upload a sealed folder for other nodes, unless it is published already or is not here."""
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
    """If little of the disk is free, remove copies of what trials have written, the longest unused first. Only copies
    that the object store has in the same form are removed."""
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
    """Time of the folder's last use, in seconds; now if it has just been removed."""
    return manifest.stat().st_mtime if manifest.is_file() else time.time()


def _is_whole(folder: Path) -> bool:
    """Whether the folder is whole. Marks it as used now."""
    with suppress(FileNotFoundError):
        os.utime(folder / MANIFEST)
    return is_whole(folder)


def _is_room(cache: Path) -> bool:
    usage = shutil.disk_usage(cache)
    return usage.free > _FREE_SHARE * usage.total


def withdraw(folder: Path) -> None:
    """Remove a published folder from the object store; the local copy stays."""
    if address := address_of(folder):
        object_store.remove(f"{address}/{MANIFEST}")  # first: half of a folder must not look like one
        for name in object_store.files_below(address):
            object_store.remove(f"{address}/{name}")


def withdraw_others(folder: Path) -> None:
    """Withdraw all sealed folders next to this one."""
    if address := address_of(folder.parent):
        for name in _children(address):
            if name != folder.name:
                withdraw(folder.with_name(name))


def fetch_file(path: Path) -> None:
    """Download a published file that is not here."""
    address = address_of(path)
    if not address or path.exists():
        return
    content = object_store.read(address)
    if content is not None:
        write_whole(path, content)


def read_file(path: Path) -> bytes:
    """A published file as it is now, perhaps changed by another node; empty if there is none."""
    if address := address_of(path):
        return object_store.read(address) or b""
    return path.read_bytes() if path.is_file() else b""


def publish_file(path: Path) -> None:
    """Upload a file as it is now."""
    if address := address_of(path):
        object_store.write(address, path.read_bytes())


def publish_files(folder: Path) -> None:
    """Upload all files of a folder that is not sealed."""
    if address := address_of(folder):
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        object_store.upload(folder, names, address)


def fetch_files(folder: Path) -> None:
    """Download what `publish_files` has uploaded, over the local files."""
    if address := address_of(folder):
        object_store.download(address, object_store.files_below(address), folder)


def _cache() -> Path:
    return Path(os.environ.get("MMPO_CACHE") or "~/.cache/mmpo-sweeps").expanduser().resolve()


def _can_be_written(place: Path) -> bool:
    return os.access(next(path for path in place.parents if path.exists()), os.W_OK)


def _lock(address: str) -> FileLock:
    locks = _cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / hashlib.sha256(address.encode()).hexdigest()[:32])


def _children(address: str) -> list[str]:
    paths = [name.split("/") for name in object_store.files_below(address)]
    return [path[0] for path in paths if path[1:] == [MANIFEST]]


def _download(address: str, folder: Path) -> bool:
    """Whether the folder is whole here now, or does not exist in the store."""
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
