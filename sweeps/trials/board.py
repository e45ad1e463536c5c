"""The live table of a stage's trials."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mmpo_train import metric_names as keys
from mmpo_train.events import Point
from mmpo_train.terminal import BEAT_SECONDS, tell

_STATE_STYLES = {"training": "bold", "finished": "green", "stopped": "yellow", "waiting": "dim"}
_STATE_STYLES |= dict.fromkeys(("diverged", "failed"), "red")
_MEANS = {
    "placing": "placing: waits for a free place, then for its processes to start",
    "starting": "starting: loads its model and data",
    "judging": "judging: trained, its last checkpoint is being evaluated",
}
"""Lines of states that last."""
_ENDED = ("finished", "diverged", "failed", "stopped")
_AROUND = 7
"""Lines of the screen besides the rows: heading, column names, frame, caption, and one to spare."""
_FEWEST_ROWS = 10
_BEST = 5
"""Rows that are reserved for trials that have ended."""


@dataclass
class Row:
    """One trial as the table shows it."""

    label: str
    epochs: int
    tuning: bool = False
    """Whether it is an instruction tuning."""
    state: str = "waiting"
    epoch: float = 0.0
    step: int = 0
    loss: float | None = None
    score: float | None = None
    """Reward accuracy, or a tuning's validation loss."""
    per_second: float | None = None
    """Pairs, or a tuning's conversations."""
    seconds_per_epoch: float | None = None

    def update(self, points: list[Point]) -> None:
        """Update the row with the newest points."""
        for point in points:
            if point.step < self.step:
                continue
            metrics = point.metrics
            self.step, self.epoch = point.step, metrics[keys.EPOCH]
            self.loss = metrics.get(keys.LOSS, self.loss)  # none where all prompts were dropped
            self.per_second = metrics[keys.CONVERSATIONS_PER_SECOND if self.tuning else keys.PAIRS_PER_SECOND]
            self.score = metrics.get(keys.LOSS_CURVE if self.tuning else keys.ACCURACY_CURVE, self.score)
            self.seconds_per_epoch = metrics[keys.STEP_SECONDS] * point.step / max(self.epoch, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training left at the present speed; None if the speed is not known yet."""
        if self.state in _ENDED:
            return 0.0
        return None if self.seconds_per_epoch is None else (self.epochs - self.epoch) * self.seconds_per_epoch


class Board:
    """The rows of a stage as a live table on a terminal; elsewhere a line for each change of state, and each minute."""

    def __init__(self, console: Console, title: str, axis: str, rows: dict[str, Row], concurrent: int) -> None:
        self.console, self.title, self.axis, self.rows, self.concurrent = console, title, axis, rows, concurrent
        tunings = any(row.tuning for row in rows.values())
        self.scored = "validation loss" if tunings else "reward accuracy"
        self.learned = "conversations/s" if tunings else "pairs/s"
        self.started = self.told = time.monotonic()
        self.drawn = False

    def set_state(self, digest: str, state: str, reason: str = "") -> None:
        """Show a trial's new state, with the reason if there is one."""
        row = self.rows[digest]
        if row.state != state:
            row.state = state
            self.line(digest, f"{state}: {reason}" if reason else _MEANS.get(state, state))
            if reason and self.drawn:
                self._tell(f"{self.axis} {row.label} {state}: {reason}")

    def say(self, digest: str, what: str) -> None:
        """Print a message about a trial, with or without a live table."""
        self._tell(f"{self.axis} {self.rows[digest].label}: {what}")

    def line(self, digest: str, what: str) -> None:
        """Print a line about a trial if there is no live table."""
        if not self.drawn:
            row = self.rows[digest]
            score = "" if row.score is None else f", {self.scored} {row.score:.4f}"
            self._tell(f"{self.axis} {row.label}: {what} (step {row.step}{score})")

    def _tell(self, text: str) -> None:
        tell(text, self.console, style="")

    def beat(self) -> None:
        """Print how far the trials are, once a minute and only if there is no live table."""
        now = time.monotonic()
        if self.drawn or now - self.told < BEAT_SECONDS:
            return
        self.told = now
        training = [row for row in self.rows.values() if row.state == "training" and row.loss is not None]
        for row in training[:_FEWEST_ROWS]:
            speed = f"{_number(row.per_second, '.0f')} {self.learned}, {_duration(row.seconds_left)} left"
            at = f"step {row.step}, epoch {row.epoch:.2f} of {row.epochs}, loss {row.loss:.4f}"
            self._tell(f"{self.axis} {row.label}: {at}, {speed}")
        self._tell(f"{self._counts()} · {_duration(now - self.started)}{self._left()}")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Draw until the block ends, on a terminal."""
        with ExitStack() as stack:
            if self.console.is_terminal:
                stack.enter_context(Live(get_renderable=self.table, console=self.console, refresh_per_second=4))
                self.drawn = True
            yield

    def table(self) -> Table:
        """The present rows. If the screen is too small for all: running trials, and the best that have ended."""
        shown = self._shown()
        table = Table(title=self._heading(), title_justify="left", title_style="bold", caption_justify="left")
        if len(shown) < len(self.rows):
            table.caption = f"{len(shown)} of {len(self.rows)} trials; {self._counts()}"
        of_training = ("epoch", "step", "loss", self.scored, self.learned, "time left")
        for name in (self.axis.replace("_", " "), "state", *of_training):
            table.add_column(name, justify="left" if name == "state" else "right")
        for row in shown:
            table.add_row(
                row.label,
                row.state,
                f"{row.epoch:.2f}/{row.epochs}" if row.step else "",
                str(row.step or ""),
                _number(row.loss, ".3f"),
                _number(row.score, ".4f"),
                _number(row.per_second, ".0f"),
                _duration(row.seconds_left) if row.state == "training" else "",
                style=_STATE_STYLES.get(row.state, ""),
            )
        return table

    def _shown(self) -> list[Row]:
        rows = list(self.rows.values())
        room = max(_FEWEST_ROWS, self.console.size.height - _AROUND)
        if len(rows) <= room:
            return rows
        under_way = [row for row in rows if row.state not in (*_ENDED, "waiting")]
        ended = sorted((row for row in rows if row.state in _ENDED), key=lambda row: -(row.score or 0.0))
        waiting = [row for row in rows if row.state == "waiting"]
        kept = {id(row) for row in [*under_way[: room - _BEST], *ended, *waiting][:room]}
        return [row for row in rows if id(row) in kept]

    def _counts(self) -> str:
        counts = Counter(row.state for row in self.rows.values())
        return ", ".join(f"{count} {state}" for state, count in counts.most_common())

    def _heading(self) -> str:
        elapsed = _duration(time.monotonic() - self.started)
        return f"{self.title}, up to {self.concurrent} at a time · {elapsed}{self._left()}"

    def _left(self) -> str:
        known = [row.epochs * row.seconds_per_epoch for row in self.rows.values() if row.seconds_per_epoch]
        if not known:
            return ""
        typical = sum(known) / len(known)
        work = sum(typical if row.seconds_left is None else row.seconds_left for row in self.rows.values())
        return f", about {_duration(work / self.concurrent)} of training left"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
