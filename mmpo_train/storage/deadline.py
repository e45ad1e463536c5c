"""A function's answer with a time limit."""

import threading
from collections.abc import Callable
from typing import Any


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """The function's answer. Raises TimeoutError if it takes longer; its thread then continues."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["answer"] = function()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in outcome:
        raise outcome["error"]
    if "answer" not in outcome:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return outcome["answer"]
