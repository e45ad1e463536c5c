"""Files of an object store by their addresses, `s3://bucket/path` or `gs://bucket/path`. The door to pyarrow.fs.

Credentials, region and endpoint come from the environment, as for the stores' own tools. An address never has them, so
that it may be shown and recorded.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mmpo_train.errors import InputError
from mmpo_train.storage.deadline import within

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

Answer = TypeVar("Answer")

SCHEMES = ("s3", "gs")
PATIENCE_SECONDS = 300.0
"""Time during which requests to a store that does not answer are repeated."""
PROBE_SECONDS = 20.0
_PIECE_BYTES = 64 * 2**20
_AT_A_TIME = 8
_ADVICE = {
    "s3": "make the bucket; let this machine's role or keys (AWS_PROFILE, AWS_ACCESS_KEY_ID) list, read, write and "
    "delete in it; and look at AWS_REGION, AWS_ENDPOINT_URL and the network",
    "gs": "make the bucket; let this machine's account (gcloud auth application-default login, or "
    "GOOGLE_APPLICATION_CREDENTIALS) list, read, write and delete in it; and look at the network",
}
# Errors that a retry does not cure.
_HOPELESS = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT|OAuth2"
    r"|PERMISSION_DENIED|UNAUTHENTICATED"
)
# The store's own message inside that of its libraries.
_OWN_WORDS = re.compile(r"(AWS Error .*)|underlying error message was: (.*?) error_info")


def is_address(storage: str) -> bool:
    """Whether the storage is an object store and not a folder."""
    return "://" in storage


def parts_of(address: str) -> tuple[str, str]:
    """Scheme, and bucket with path. Raises InputError for another scheme, no bucket, or more than an address holds."""
    scheme, _, rest = address.partition("://")
    if "@" in rest or "?" in rest or "#" in rest:
        bucket = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
        raise InputError(
            f"--storage {scheme}://{bucket} contains credentials or settings; expected "
            f"{scheme}://bucket/path alone: keys, AWS_REGION and AWS_ENDPOINT_URL belong in the environment"
        )
    if scheme not in _ADVICE:
        advice = f": give the folder itself, {rest}" if scheme == "file" else ""
        raise InputError(f"--storage {address!r}: expected a folder, s3://bucket/path or gs://bucket/path{advice}")
    names = [name for name in rest.split("/") if name]
    if not names or rest.startswith("/") or {".", ".."} & set(names):
        raise InputError(f"--storage {address!r} names no bucket; expected {scheme}://bucket/path")
    return scheme, "/".join(names)


def check_access(address: str) -> None:
    """Write, read, list and delete a test file. Raises InputError within seconds if one of these fails."""
    probe = f"{address}/.probe-{secrets.token_hex(8)}"

    def try_all() -> None:
        store, path = _at(probe)
        with store.open_output_stream(path) as stream:
            stream.write(b"probe")
        with store.open_input_stream(path) as stream:
            stream.read()
        _list(address)
        store.delete_file(path)

    try:
        within(PROBE_SECONDS, try_all)
    except _failures() as error:
        found = _OWN_WORDS.search(str(error).replace("\n", " "))
        why = found[1] or found[2] if found else str(error)
        raise InputError(f"--storage {address} cannot be used: {why[:300]}; {_ADVICE[parts_of(address)[0]]}") from None


def read(address: str) -> bytes | None:
    """A file's content; None if it does not exist."""
    store, path = _at(address)

    def content() -> bytes:
        with store.open_input_stream(path) as stream:
            return bytes(stream.read())

    try:
        return _patiently(content, address)
    except FileNotFoundError:
        return None


def write(address: str, content: bytes) -> None:
    """Write a file, which appears or changes as a whole."""
    _patiently(lambda: _copy(io.BytesIO(content), address), address)


def upload(folder: Path, names: Iterable[str], address: str) -> None:
    """Upload files of a folder under their names."""

    def one(name: str) -> None:
        with open(folder / name, "rb") as source:
            _copy(source, f"{address}/{name}")

    _all_of(lambda name: _patiently(lambda: one(name), address), names)


def download(address: str, names: Iterable[str], folder: Path) -> None:
    """Download files to a folder. Raises FileNotFoundError if one is missing."""
    store, path = _at(address)
    wanted = sorted(names)
    found = _patiently(lambda: store.get_file_info([f"{path}/{name}" for name in wanted]), address)
    pieces: list[tuple[str, int]] = []
    for name, one_of in zip(wanted, found, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
        pieces += [(name, start) for start in range(0, max(1, one_of.size or 0), _PIECE_BYTES)]

    def one(piece: tuple[str, int]) -> None:
        name, start = piece
        with store.open_input_file(f"{path}/{name}") as source, open(folder / name, "rb+") as target:
            source.seek(start)
            target.seek(start)
            target.write(source.read(_PIECE_BYTES))

    _all_of(lambda piece: _patiently(lambda: one(piece), address), pieces)


def files_below(address: str) -> list[str]:
    """Names of all files below the address, relative to it."""
    return _patiently(lambda: _list(address), address)


def remove(address: str) -> None:
    """Delete a file, if it exists."""
    store, path = _at(address)
    try:
        _patiently(lambda: store.delete_file(path), address)
    except FileNotFoundError:
        return


def _at(address: str) -> tuple[FileSystem, str]:
    scheme, path = parts_of(address)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return _filesystem(scheme, path.partition("/")[0], endpoint), path


@cache
def _filesystem(scheme: str, bucket: str, endpoint: str) -> FileSystem:
    from pyarrow import fs

    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=10))
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not endpoint:
        region = fs.resolve_s3_region(bucket)
    # pyarrow reads the endpoint from the environment for URIs alone.
    return fs.S3FileSystem(region=region, endpoint_override=endpoint or None, connect_timeout=5)


def _failures() -> tuple[type[Exception], ...]:
    from pyarrow.lib import ArrowException

    return OSError, ArrowException


def _copy(source: io.BufferedIOBase, address: str) -> None:
    store, path = _at(address)
    with store.open_output_stream(path, buffer_size=0) as stream:
        shutil.copyfileobj(source, stream, 16 * 2**20)


def _list(address: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    store, path = _at(address)
    found = store.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return [one.path.removeprefix(f"{path}/") for one in found if one.type == FileType.File]


def _all_of(work: Callable[[Answer], None], items: Iterable[Answer]) -> None:
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(work, items))


def _patiently(action: Callable[[], Answer], address: str) -> Answer:
    """The action's answer; it is repeated while the store does not answer."""
    from tenacity import RetryError, Retrying, retry_if_exception, stop_before_delay, wait_exponential

    def may_pass(error: BaseException) -> bool:
        # With a number the error is this machine's: no such file, a full disk.
        numbered = getattr(error, "errno", None) is not None
        return isinstance(error, _failures()) and not numbered and not _HOPELESS.search(str(error))

    wait, stop = wait_exponential(max=30.0), stop_before_delay(PATIENCE_SECONDS)
    try:
        return Retrying(retry=retry_if_exception(may_pass), wait=wait, stop=stop)(action)
    except RetryError as error:
        last = error.last_attempt.exception()
        raise OSError(f"{address} has not answered for {PATIENCE_SECONDS:.0f} s: {last}") from last
