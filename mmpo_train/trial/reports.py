"""A trial's reports as plain values, which another process reads without torch."""

from collections.abc import Callable
from typing import Any

from mmpo_train.events import Finished, Point
from mmpo_train.trial.early_stop import Stopped
from mmpo_train.trial.loop import Diverged

Report = Callable[[dict[str, Any]], None]
"""Takes one of: `points` (tuples as `Point`) with `finished` (as `Finished`, or None); `said`, a message for the user;
`safe`, the step up to which nothing can be lost; `copied`, the step of a state for clones; `diverged` or `stopped`, the
reason why training ended. Every worker calls it."""


def report_on(run: Callable[..., None], report: Report) -> str:
    """Run a trial to its end and report what it sends. Returns why it diverged or was stopped; empty if it did neither.
    `run` takes send, say, safe and copied as `run_trial` does."""

    def send(points: list[Point], finished: Finished | None) -> None:
        report({"points": [tuple(point) for point in points], "finished": finished and tuple(finished)})

    try:
        how: dict[str, Any] = {"say": lambda text: report({"said": text}), "safe": lambda step: report({"safe": step})}
        run(send=send, **how, copied=lambda step: report({"copied": step}))
    except (Stopped, Diverged) as reason:
        report({"stopped" if isinstance(reason, Stopped) else "diverged": str(reason)})
        return str(reason)
    return ""
