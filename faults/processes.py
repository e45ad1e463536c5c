"""Faults of processes: signals, stops and limits at a random moment of a run."""

import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from faults.engine import Case, Hung, NotFired

SECONDS = 240.0
"""A process that needs longer hangs."""
Work = Callable[[Path], None]
"""A command on a storage, for a process of its own. Ends as commands do: by returning, or by SystemExit."""
SIGNALS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGHUP": (signal.SIGHUP,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
}


@dataclass(frozen=True)
class NoOptions:
    """Of works that are no programs of their own."""


def begin(work: Work, case: Case) -> BaseProcess:
    """The work in a process that is forked from this one, which has the libraries loaded already."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(work, case))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the fork is where it is caught
    process.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process


def _run(work: Work, case: Case) -> None:
    file = os.open(case.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    status = 0
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        work(case.storage)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt as why:  # before the program had begun; SIGTERM's handler is this process's parent's
        status = getattr(why, "status", 128 + signal.SIGINT)
    except BaseException:  # noqa: BLE001 - the log is searched for tracebacks
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError):  # of a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def undisturbed(work: Work, ring: str, folder: Path) -> tuple[Case, float]:
    """A run without faults, and the seconds that another one takes.

    Loads here whatever the first has loaded: else most random moments would lie in imports.
    """
    first, second = (Case(ring, "undisturbed", Random(0), folder / name) for name in ("first", "second"))
    for case in (first, second):
        case.folder.mkdir()
    loaded = first.folder / "modules.json"

    def work_and_tell(storage: Path) -> None:
        try:
            work(storage)
        finally:
            loaded.write_text(json.dumps(sorted(sys.modules)))

    finish(work_and_tell, first)
    for name in json.loads(loaded.read_text()):
        with contextlib.suppress(Exception):  # of parts that want to be loaded by others
            importlib.import_module(name)
    return first, finish(work, second)


def end_of(process: BaseProcess, seconds: float = SECONDS) -> int:
    """Its exit status; negative the signal that ended it. Raises Hung, and kills it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise Hung(f"a process had not ended after {seconds:.0f} s")
    return process.exitcode


def finish(work: Work, case: Case) -> float:
    """Seconds until the same work has ended well. Raises RuntimeError with its last words if it does not.

    Where it says what to do about a damaged database, that is done.
    """
    began = time.monotonic()
    for _ in range(3):
        said = case.log.stat().st_size if case.log.exists() else 0
        if end_of(begin(work, case)) == 0:
            return time.monotonic() - began
        words = case.log.read_text(errors="replace")[said:]
        if "move it away (mv" in words:
            (case.storage / "mlflow.db").rename(case.storage / "mlflow.db.damaged")
        elif "Traceback" in words:
            break
    raise RuntimeError(f"does not end well: {case.log.read_text(errors='replace')[-1500:]}")


def in_midst(work: Work, case: Case, undisturbed: float) -> BaseProcess:
    """A process at a random moment of its work, which needs about so many seconds. Raises NotFired if it has ended."""
    process = begin(work, case)
    process.join(case.random.uniform(0.0, undisturbed / 1.5**case.attempt))
    if process.exitcode is not None:
        raise NotFired("the work had ended before")
    return process


def killed(work: Work, case: Case, undisturbed: float) -> None:
    """Kill the work at a random moment. Raises NotFired."""
    process = in_midst(work, case, undisturbed)
    process.kill()
    if (status := end_of(process)) != -signal.SIGKILL:
        raise NotFired(f"status {status}")


def signalled(work: Work, case: Case, undisturbed: float, numbers: tuple[int, ...]) -> float:
    """Send signals, and begin the same work again. Seconds that it then takes."""
    process = in_midst(work, case, undisturbed)
    for number in numbers:
        os.kill(process.pid or 0, number)
        time.sleep(case.random.uniform(0.0, 0.2))
    status = end_of(process)
    if status == 0:
        raise NotFired("the work ended all the same")
    if status not in (*(128 + number for number in numbers), *(-number for number in numbers)):
        raise RuntimeError(f"status {status}: {case.log.read_text()[-1500:]}")
    return finish(work, case)


def stopped(work: Work, case: Case, undisturbed: float) -> float:
    """Stop the process for a while: a paused virtual machine. Seconds from its waking to its end."""
    process = in_midst(work, case, undisturbed)
    os.kill(process.pid or 0, signal.SIGSTOP)
    time.sleep(case.random.uniform(0.5, 5.0))
    if "T (stopped)" not in Path(f"/proc/{process.pid}/status").read_text():
        raise NotFired("not stopped")
    os.kill(process.pid or 0, signal.SIGCONT)
    began = time.monotonic()
    if end_of(process):
        raise RuntimeError(case.log.read_text()[-1500:])
    return time.monotonic() - began


def out_of_memory(work: Work, case: Case, undisturbed: float) -> float:
    """Give the process little more memory than it has. It may do with it; else the work is begun again.

    Less than a MiB would find an error of Python itself, which may wait for ever for a thread that has no memory to
    begin with.
    """
    process = in_midst(work, case, undisturbed)
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + case.random.randrange(2**20, 2**24)
    resource.prlimit(process.pid or 0, resource.RLIMIT_AS, (limit, limit))
    if resource.prlimit(process.pid or 0, resource.RLIMIT_AS)[0] != limit or process.exitcode is not None:
        raise NotFired("no limit")
    end_of(process)
    return finish(work, case)


def two_at_once(work: Work, case: Case, undisturbed: float) -> float:
    """Begin the same work in a second process. Seconds until both have ended, and the work is done."""
    first = in_midst(work, case, undisturbed)
    second = begin(work, case)
    if first.exitcode is not None:
        end_of(second)
        raise NotFired("the first had ended before")
    began = time.monotonic()
    statuses = {end_of(first), end_of(second)}
    if not statuses <= {0, 2}:
        raise RuntimeError(f"{statuses}: {case.log.read_text()[-1500:]}")
    finish(work, case)
    return time.monotonic() - began


@contextlib.contextmanager
def traced(process: BaseProcess, inject: str, log: Path) -> Iterator[None]:
    """A block in which strace meddles with the process's system calls, as its `--inject` says."""
    words = ["strace", "-f", "-qq", "-e", f"trace={inject.partition(':')[0]}", "-e", f"inject={inject}"]
    tracer = subprocess.Popen([*words, "-o", log, "-p", str(process.pid)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def meddled(work: Work, case: Case, undisturbed: float, inject: str, proof: str) -> float:
    """Meddle with system calls from a random moment on; `proof` stands in strace's log of one that was changed."""
    process, trace = in_midst(work, case, undisturbed), case.folder / "strace.txt"
    with traced(process, inject, trace):
        end_of(process)
    if not trace.exists() or proof not in trace.read_text():
        raise NotFired("no such call was made afterwards")
    return finish(work, case)
