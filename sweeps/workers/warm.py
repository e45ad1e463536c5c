"""Warm processes for trials: each trains in a fork of a process of its node that has torch, transformers and DeepSpeed
imported, and nothing else in memory: no CUDA, no model, no random state that another trial has moved.

A trial's Ray worker calls `run`. It starts the node's warm process where there is none, hands it its standard output
and error and one end of a socket, and answers what its fork asks over the other end. The warm process, `main`, has one
thread of Python's. It kills a fork whose worker is gone, tells a worker when its fork has ended, and ends with Ray, or
when nobody has asked for a fork for a while. Where there cannot be one, the worker trains by itself.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

Ask = Callable[..., Any]
"""Takes the name of an answer and its arguments: what the worker's function of that name returns or raises."""
Task = Callable[[dict[str, Any], Ask], None]
"""The task of a process: takes the trial's job, plain values. Found by its name in its module."""

_IMPORTED = ("mmpo_train.training", "mmpo_train.trial.run", "mmpo_train.sft.run", "sweeps.cluster.leaving")
_WHEN_NEEDED = ("transformers.models.llama.modeling_llama", "deepspeed.runtime.zero.muon.muon_optimizer", "pandas")
"""What brings in most of that which the libraries import only when a model is loaded, an engine made, a table read."""
_IDLE_SECONDS = 120.0
_UNFIT = "unfit"
_TRIES = 25
_SECONDS_BETWEEN_TRIES = 0.2
_PR_SET_PDEATHSIG = 1


def run(task: Task, job: dict[str, Any], answers: Mapping[str, Callable[..., Any]], folder: Path | None) -> bool:
    """Execute `task(job, ask)` in a fork of the warm process at `folder`; without one, in this process.

    Returns whether it was a fork. Raises what the task raises. If the fork is killed or exits, so is this process: to
    Ray it is a lost worker.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        warm = folder and _fork(folder, theirs)
    if not warm:
        ours.close()
        task(job, lambda name, *arguments: answers[name](*arguments))
        return False
    with warm, Connection(ours.detach()) as line:
        ended = _attend(line, answers, (task, job, dict(os.environ), os.getcwd()))
        warm.recv(1)  # returns when the fork is no more, and its memory, and its GPU's, is free
    if ended is None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal may take a moment
    if isinstance(ended, BaseException):
        raise ended
    return True


def _attend(line: Connection, answers: Mapping[str, Callable[..., Any]], begin: Any) -> BaseException | bool | None:
    """Answer a fork's questions until it ends: True, or what it raised, or None if it ended without a word."""
    message: Any = begin
    while True:
        try:
            line.send(message)
            name, *arguments = line.recv()
        except (EOFError, ConnectionError):
            return None
        if not name:
            return arguments[0]
        try:
            message = (answers[name](*arguments), None)
        except Exception as error:  # noqa: BLE001  (whatever Ray raises is raised where it was asked)
            message = (None, error)


def start(folder: Path) -> None:
    """Start a warm process with this process's environment, unless the folder has one; it is reachable at once.

    Raises OSError if that cannot be.
    """
    if (folder / _UNFIT).exists():
        raise OSError("a warm process of this folder has found that it is of no use")
    folder.mkdir(0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is open to others")
    # So that CUDA is not touched where only its devices are counted: it cannot be used in a fork then.
    more = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    words = [sys.executable, "-P", "-m", "sweeps.workers.warm", str(folder), str(os.getppid())]
    subprocess.run(words, env=os.environ | more, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


def _fork(folder: Path, line: socket.socket) -> socket.socket | None:
    """A connection to the warm process, which has made a fork with this end of the line; None where it cannot."""
    if (warm := _reach(folder)) is not None:
        with contextlib.suppress(OSError):
            socket.send_fds(warm, [b"?"], [line.fileno(), 1, 2])
            if warm.recv(1):
                return warm
        warm.close()  # it has ended while it imported
    return None


def _reach(folder: Path) -> socket.socket | None:
    for number in range(_TRIES):
        found = socket.socket(socket.AF_UNIX)
        try:
            found.connect(str(folder / "socket"))
            return found
        except OSError:
            found.close()
        try:
            start(folder)
        except OSError:
            return None
        if number:
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return None


def main() -> None:
    """The warm process: `warm.py FOLDER RAYLET`, which returns to whoever started it when it can be reached."""
    folder, raylet = Path(sys.argv[1]), os.pidfd_open(int(sys.argv[2]))
    with (folder / "lock").open("w") as lock, socket.socket(socket.AF_UNIX) as listening:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        (folder / "socket").unlink(missing_ok=True)
        listening.bind(str(folder / "socket"))
        listening.listen(64)
        if os.fork():
            os._exit(0)  # an orphan: Ray kills the children of a worker that ends
        os.setsid()
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _import(folder)
        _serve(listening, raylet)


def _import(folder: Path) -> None:
    from mmpo_train.engines.deepspeed_engine import import_deepspeed
    from mmpo_train.model.policy import import_transformers

    for name in _IMPORTED:
        importlib.import_module(name)
    import_deepspeed()
    import_transformers()
    for name in _WHEN_NEEDED:
        with contextlib.suppress(ImportError):  # of other versions; then each fork does it
            importlib.import_module(name)
    if not os.fork():
        os._exit(_is_unfit())
    if os.wait()[1]:
        (folder / _UNFIT).touch()
        sys.exit("what is imported has touched CUDA, which a fork cannot use then")
    gc.collect()
    gc.freeze()  # otherwise each fork's first collection would copy all of it


def _is_unfit() -> bool:
    """Whether CUDA cannot be used in this fork."""
    import torch

    return bool(torch.cuda._is_in_bad_fork())


def _serve(listening: socket.socket, raylet: int) -> None:
    workers: dict[int, socket.socket] = {}
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        watched: list[Any] = [listening, raylet, ended, *workers.values()]
        ready = select.select(watched, [], [], None if workers else _IDLE_SECONDS)[0]
        if not ready or raylet in ready:
            return  # its forks are killed with it
        if ended in ready:
            os.read(ended, 4096)
        for fork, worker in workers.items():
            if worker in ready:  # a worker says nothing more: it has ended
                os.kill(fork, signal.SIGKILL)
        while workers and (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] in workers:
                workers.pop(found[0]).close()
        if listening in ready:
            worker, _ = listening.accept()
            _, handed, *_ = socket.recv_fds(worker, 1, 3)
            if len(handed) == 3:
                parent = os.getpid()
                fork = os.fork()
                if not fork:
                    for one in (listening, worker, *workers.values()):
                        one.close()
                    _train(parent, *handed)
                workers[fork] = worker
                with contextlib.suppress(OSError):
                    worker.sendall(b"!")
            for number in handed:
                os.close(number)


def _train(parent: int, line_number: int, output: int, errors: int) -> None:
    """What a fork does, to its end."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
        os.dup2(output, 1)
        os.dup2(errors, 2)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        faulthandler.enable()
        with Connection(line_number) as line:
            line.send((None, _outcome(line)))
        status = 0
    except (_WorkerLost, ConnectionError):
        pass  # who would hear of it is gone
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _WorkerLost(BaseException):
    """The worker that a fork speaks to has ended."""


def _outcome(line: Connection) -> Any:
    """True, or what the task that its worker sends raised, as it can be sent back."""

    def ask(name: str, *arguments: Any) -> Any:
        try:
            line.send((name, *arguments))
            answer, error = line.recv()
        except (EOFError, ConnectionError) as gone:
            raise _WorkerLost from gone
        if error is not None:
            raise error
        return answer

    try:
        task, job, environment, cwd = line.recv()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(cwd)
        from mmpo_train.typed.plugins import set_up_worker

        set_up_worker()
        task(job, ask)
    except _WorkerLost:
        raise
    except BaseException as error:  # noqa: BLE001  (whatever it raises is raised in the worker)
        with_traceback = ExceptionWithTraceback(error, error.__traceback__)
        try:
            pickle.loads(pickle.dumps(with_traceback))
        except Exception:  # noqa: BLE001  (an error of anybody's, whose class does not come through)
            return RuntimeError(f"{type(error).__name__}: {error}")
        return with_traceback
    return True


if __name__ == "__main__":
    main()
