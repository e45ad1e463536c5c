"""The other end of `template_process.py`: chat templates run in a process of their own, within limits."""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class TemplateProcess:
    """The process, started when first needed and again after a template has met its limits. Threads may share it."""

    def __init__(self, date: str, *, seconds: int, megabytes: int) -> None:
        """`seconds` and `megabytes` are what the few conversations of one request may take."""
        self.date, self.seconds, self.megabytes = date, seconds, megabytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner, self._template = 0, ""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply: `texts`, or why it was `refused`, or `out_of_memory`; empty where it took too long."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._start()
            assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
            template = request["template"]
            sent = {**request, "template": template if template != self._template else None}
            self._template = template
            try:
                self._process.stdin.write(json.dumps(sent) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if line:
                return json.loads(line)
            status, self._process = self._process.wait(), None
        if status >= 0:
            raise RuntimeError(f"the process that renders chat templates ended with status {status}")
        # Otherwise its allocator gave up, or the system had to choose a process to end.
        return {} if status == -signal.SIGXCPU else {"out_of_memory": True}

    def _start(self) -> None:
        program = Path(__file__).with_name("template_process.py")
        limits = (self.date, str(self.seconds), str(self.megabytes))
        # One thread: a pool's stacks would count as memory. A session of its own: Ctrl-C is not for it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(program), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"},
            start_new_session=True,
        )
        self._owner, self._template = os.getpid(), ""
        assert self._process.stdin is not None
        atexit.register(self._process.stdin.close)  # it ends with its input
