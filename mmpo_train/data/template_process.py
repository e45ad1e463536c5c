"""The process in which chat templates run: requests on standard input, texts on standard output, a line each.

A template comes with a model and is a program. Jinja's sandbox keeps it from files and the network, but not from
looping for ever or filling the memory. This process has limits; where they end it, `template_limits.py` starts another.
It is run by its path and imports nothing of this project.
"""

import json
import math
import os
import resource
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers.utils import chat_template_utils


class _FrozenClock:
    """The clock of templates' `strftime_now`. It stands still, so that a conversation always gives the same tokens."""

    moment = datetime.min

    @classmethod
    def now(cls) -> datetime:
        return cls.moment


def main(date: str, seconds: int, megabytes: int) -> None:
    """Answer requests until the input ends. `date` is the date of every conversation."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no reply
    _FrozenClock.moment = datetime.fromisoformat(date)
    chat_template_utils.datetime = _FrozenClock  # type: ignore[misc,assignment]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if Path("/proc/self/statm").is_file():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)
    template = ""
    for line in sys.stdin:
        request = json.loads(line)
        template = request["template"] or template
        spent = resource.getrusage(resource.RUSAGE_SELF)
        # CPU time, not elapsed time: on a busy machine a short rendering may take long.
        limit = math.ceil(spent.ru_utime + spent.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        replies.write(json.dumps(_reply(template, request)) + "\n")
        replies.flush()


def _reply(template: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        texts: list[str] = []
        for wanted in request["wanted"]:
            rendered: Any = chat_template_utils.render_jinja_template(
                [wanted.pop("messages")], chat_template=template, **wanted, **request["values"]
            )
            texts += rendered[0]
        return {"texts": texts}
    except MemoryError:
        return {"out_of_memory": True}
    except Exception as error:  # noqa: BLE001 - the template's, whatever it may be
        return {"refused": str(error).strip() or type(error).__name__}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
