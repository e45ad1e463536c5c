"""Faults of files: flipped bytes, cut ends, lost files, full and read-only disks."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.engine import Case, NotFired
from faults.processes import Work, begin, end_of, finish, in_midst

Damage = Callable[[Path, Case], None]


def flip(path: Path, case: Case) -> None:
    """Change a bit."""
    content = bytearray(path.read_bytes())
    content[case.random.randrange(len(content))] ^= 1 << case.random.randrange(8)
    path.write_bytes(content)


def cut(path: Path, case: Case) -> None:
    """Lose the end."""
    os.truncate(path, case.random.randrange(path.stat().st_size))


def delete(path: Path, case: Case) -> None:
    """Lose the file."""
    path.unlink()


DAMAGES: dict[str, Damage] = {"a bit flipped": flip, "a file cut": cut, "a file deleted": delete}


def damaged(work: Work, case: Case, undisturbed: float, damage: Damage, but: str = "") -> float:
    """Kill the work at a random moment, damage one of the files that it has written, and begin it again.

    Each kind of file is as likely: a kind is a name without its digits. Names that match `but` are left out.
    """
    for attempt in range(10):
        process = in_midst(work, case, undisturbed * 1.3**attempt)  # on a busy machine it takes longer
        process.kill()
        end_of(process)
        if _kinds(case.storage, but):
            break
    else:
        raise NotFired("nothing was ever written")
    path = drawn(case, but)
    with open(case.log, "a") as log:
        print(f"{damage.__name__} {path}", file=log)
    before = path.read_bytes()
    damage(path, case)
    if path.exists() and path.read_bytes() == before:
        raise NotFired(f"{path} is as it was")
    return finish(work, case)


def drawn(case: Case, but: str) -> Path:
    """A file that was written; each kind is as likely."""
    kinds = _kinds(case.storage, but)
    return case.random.choice(kinds[case.random.choice(sorted(kinds))])


def _kinds(storage: Path, but: str) -> dict[str, list[Path]]:
    """Kind -> files that are not empty."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(storage.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size and not (but and re.search(but, path.name)):
            place = re.sub(r"[0-9a-f]{8,}|\d+", "#", str(path.relative_to(storage)))
            kinds.setdefault(place, []).append(path)
    return kinds


@contextlib.contextmanager
def small_disk(case: Case, size: int) -> Iterator[Callable[[str], None]]:
    """The storage on a file system of its own, of so many bytes; yields a function that mounts it otherwise."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", case.storage], check=True)

    case.storage.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", case.storage], check=True)
    try:
        yield mount
    finally:
        kept = case.folder / "kept"
        shutil.copytree(case.storage, kept, symlinks=True)
        subprocess.run(["umount", "-l", case.storage], check=True)
        case.storage.rmdir()
        kept.rename(case.storage)


def full(work: Work, case: Case, size: int) -> float:
    """Let the disk be full somewhere on the way; then give it room."""
    with small_disk(case, case.random.randrange(4096, size)) as mount:
        if end_of(begin(work, case)) == 0:
            raise NotFired("there was room enough")
        if not re.search("No space|disk is full|disk I/O|database or disk", case.log.read_text(errors="replace")):
            raise NotFired(f"another end: {case.log.read_text(errors='replace')[-800:]}")
        mount(f"rw,size={20 * size}")
        return finish(work, case)


def read_only(work: Work, case: Case, size: int, undisturbed: float) -> float:
    """Kill the work, and let the disk be read-only; then not."""
    with small_disk(case, 20 * size) as mount:
        process = begin(work, case)
        process.join(case.random.uniform(0.0, undisturbed))
        process.kill()
        process.join()
        mount("ro")
        if end_of(begin(work, case)) == 0 and not case.log.read_text(errors="replace").count("Read-only"):
            raise NotFired("it had nothing to write")
        mount("rw")
        return finish(work, case)
