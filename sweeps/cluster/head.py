"""Whether Ray's head still lives: where it has died, Ray itself waits for ever, or ends the process without a word."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmpo_train.errors import Interrupted
from mmpo_train.terminal import first_cause, say_farewell

_DIED = "Ray's head has died", 2
_SECONDS_BETWEEN_LOOKS = 1.0
_LOOKS = 15
"""As often in a row a head on another machine must not answer. Ray ends the process after a minute."""
_SECONDS_TO_HEAR = 10.0
_lost, _left, _heard = threading.Event(), threading.Event(), threading.Event()
_last_words: list[Callable[[], None]] = []


def is_head_lost() -> bool:
    """Whether a watch has found it dead."""
    return _lost.is_set()


def watch_head() -> None:
    """From now on the main thread gets an Interrupted when Ray's head dies."""
    if threading.current_thread() is threading.main_thread():
        _left.clear()
        signal.signal(signal.SIGUSR1, _interrupt)
        # Ray's library has put a handler before ours, which shows native stack traces.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        threading.Thread(target=_watch, daemon=True, name="head-watch").start()


def leave_head() -> None:
    """No longer."""
    _left.set()


@contextmanager
def with_last_words(function: Callable[[], None]) -> Iterator[None]:
    """A block for which `function` is called, in another thread, if the head dies while the main thread is in a call of
    Ray's that never returns."""
    _last_words.append(function)
    try:
        yield
    finally:
        _last_words.remove(function)


def _interrupt(*_: object) -> None:
    _heard.set()
    raise Interrupted(*first_cause(*_DIED), at_once=True)


def _watch() -> None:
    from ray._private import worker

    node: Any = worker._global_node
    if node is None:  # a client of Ray's, which has none
        return
    address, missed = str(node.gcs_address), 0
    while not _left.wait(_SECONDS_BETWEEN_LOOKS):
        missed = 0 if answers(address, 2) else missed + 1
        if missed >= _LOOKS or any(kind in ("gcs_server", "raylet") for kind, _ in node.dead_processes()):
            _lost.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            if not _heard.wait(_SECONDS_TO_HEAR):
                for function in list(_last_words):
                    function()
                why, status = first_cause(*_DIED)
                say_farewell(why)
                os._exit(status)
            return


def answers(address: str, seconds: float) -> bool:
    """Whether something listens at HOST:PORT; it has so many seconds to answer."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, ValueError):
        return False
    return True
