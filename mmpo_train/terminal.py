"""Output on the terminal: progress, examples, and one message for a user's mistake."""

from __future__ import annotations

import errno
import math
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from mmpo_train.errors import InputError, Interrupted
from mmpo_train.events import Point
from mmpo_train.metric_names import ACCURACY_CURVE, EPOCH, LOSS, PAIRS_PER_SECOND
from mmpo_train.options import Options, from_file, in_force, use_plugins, with_help
from mmpo_train.redaction import mask_logs, masked
from mmpo_train.typed.options_file import as_yaml

if TYPE_CHECKING:
    from mmpo_train.config import TrialConfig
    from mmpo_train.events import Say
    from mmpo_train.prepare import Inputs
    from mmpo_train.trial.reports import Report


BEAT_SECONDS = 60.0
"""Time between two lines in a log on the progress of the same work."""
_LOG_WIDTH = 120
_ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM", signal.SIGHUP: "its terminal has gone"}
"""Ctrl-C; what Slurm, Kubernetes, systemd and `timeout` send; the end of an SSH session."""
_SECONDS_TO_END = 10.0
_SECONDS_UNTIL_AGAIN = 0.05
"""Until a signal comes again that came where Python ignores errors."""


class _Screen(Console):
    """Shows no credential, whoever wrote the text: all that is printed as text comes through here."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(masked(text), **how)


console = _Screen(emoji=False)  # else `data:train:validation` shows a train
_errors = _Screen(stderr=True, emoji=False)
for _screen in (console, _errors):
    if not _screen.is_terminal and not os.environ.get("COLUMNS"):  # a log: rich would cut tables to 80 columns
        _screen.width = _LOG_WIDTH
OptionsType = TypeVar("OptionsType")
PARSING = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
"""How every command line is parsed: without `--no-…` twins of flags, and without `None` as a value."""


def run_program(
    options: type[OptionsType], program: Callable[[OptionsType], object], name: str, arguments: list[str] | None = None
) -> None:
    """Parse the command line and run; a user's mistake ends as one message and exit code 2."""
    mask_logs()
    Interrupted.latest, Interrupted.signal = None, 0
    words = sys.argv[1:] if arguments is None else arguments
    documented = with_help(options)  # type: ignore[arg-type]  # a class is hashable
    try:
        given = from_file(options, words)
        parsed = tyro.cli(documented, prog=name, args=words, config=PARSING, **given)
        if isinstance(parsed, Options) and parsed.print_config:
            print(as_yaml(name, in_force(parsed)), end="")
            return
        use_plugins(parsed)
        with _handled(_ENDINGS, _end), _raised_everywhere():
            program(parsed)
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        place = f" ({error.filename})" if error.filename else ""
        _refuse(f"{error.strerror}{place}: {_advice(error)}")
    except KeyboardInterrupt as error:
        why = error if isinstance(error, Interrupted) else Interrupted.latest or ended_by(signal.SIGINT)
        say_farewell(str(why))
        if why.at_once:
            sys.stdout.flush()
            os._exit(why.status)
        sys.exit(why.status)


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, object], None]) -> Iterator[None]:
    """A block in which a function handles these signals, in the main thread: no other can have a handler. One that is
    ignored stays so: scripts have Ctrl-C ignored by what they start with `&`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, handler) for one in numbers if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for one, earlier in before.items():
            signal.signal(one, earlier)


@contextmanager
def _raised_everywhere() -> Iterator[None]:
    """A block in which an Interrupted is raised again where Python has ignored it: in a destructor, or in the garbage
    collector."""
    before = sys.unraisablehook

    def again(ignored: sys.UnraisableHookArgs) -> None:
        why, main = ignored.exc_value, threading.main_thread().ident
        if not isinstance(why, Interrupted) or main is None:
            return before(ignored)
        Interrupted.latest = None
        number = signal.SIGUSR1 if why.at_once else why.status - 128
        threading.Timer(_SECONDS_UNTIL_AGAIN, signal.pthread_kill, (main, number)).start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _end(number: int, _: object) -> None:
    _hear(number)
    # Whoever presses twice does not mean that what is being written, the states of runs, is left half done.
    latest = Interrupted.latest
    if latest is None or time.monotonic() > latest.since + _SECONDS_TO_END:
        raise ended_by(number)


def ended_by(number: int) -> Interrupted:
    """The end by a signal."""
    return Interrupted(_ENDINGS[signal.Signals(number)], 128 + number)


def first_cause(why: str, status: int) -> tuple[str, int]:
    """Why the command ends, and its exit status: a signal that it has had before, as all its processes may have had, is
    the cause of the rest."""
    number = Interrupted.signal
    return (_ENDINGS[signal.Signals(number)], 128 + number) if number else (why, status)


def _hear(number: int) -> None:
    """Note the first signal. After SIGHUP all output but that to a file would fail: it goes nowhere."""
    Interrupted.signal = Interrupted.signal or number
    for stream in (1, 2) if number == signal.SIGHUP else ():
        if not stat.S_ISREG(os.fstat(stream).st_mode):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@contextmanager
def told_by_signal() -> Iterator[Callable[[], int]]:
    """A block of the main thread that the first of `_ENDINGS` does not end, and the second does. Yields a function that
    gives the number of the signal, 0 before it."""
    told = 0

    def tell(number: int, _: object) -> None:
        nonlocal told
        if told:
            return _end(number, _)
        told = number
        _hear(number)
        said = "ending: states to continue from are being written; Ctrl-C again ends at once"
        # By a thread of its own: the main one may be in the middle of a print, which cannot be entered twice.
        threading.Thread(target=console.print, args=(said,), kwargs={"highlight": False}).start()

    with _handled(_ENDINGS, tell):
        yield lambda: told


def _advice(error: OSError) -> str:
    """What a person can do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or give another folder with --storage"
    if "site-packages" in Path(str(error.filename)).parts:
        return "a file of an installed package; let it be read and run (chmod u+rx), or install the package again"
    return "change its permissions, or give another folder with --storage"


def say_farewell(why: str) -> None:
    """Say why the command ends before its work is done, and how to go on."""
    _errors.print(f"{escape(why)}; rerun the same command to continue from the last saved states", soft_wrap=True)


def _refuse(message: str) -> None:
    _errors.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def tell(text: str, screen: Console = console, style: str = "dim") -> None:
    """Print a line on what happens now, with date and time if there is no terminal."""
    now = "" if screen.is_terminal else time.strftime("%Y-%m-%d %H:%M:%S  ")
    screen.print(Text(f"{now}{masked(text)}", style), soft_wrap=True)


def print_text(text: str, style: str | None = None) -> None:
    """Print a text as it is: rich neither reads marks in it, nor colours numbers, nor breaks its lines."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def preparing(*, bars: bool = True) -> Iterator[Say]:
    """Shows the progress of the preparations before training: by bars on a terminal, else by a line for each phase and
    minute."""
    if not (bars and console.is_terminal):
        yield _lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, int] = {}

        def say(what: str, share: float) -> None:
            if what not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)  # type: ignore[arg-type]
                tasks[what] = progress.add_task(what, total=1.0 if share else None)
            progress.update(tasks[what], completed=share, total=1.0 if share else None)  # type: ignore[arg-type]

        yield say


def _lines() -> Say:
    told: dict[str, float] = {}  # phase -> when it was told last

    def say(what: str, share: float) -> None:
        now = time.monotonic()
        if now - told.get(what, -math.inf) >= BEAT_SECONDS:
            tell(f"{what}: {share:.0%}" if share else what)
            told[what] = now

    return say


@contextmanager
def training_bar(config: TrialConfig) -> Iterator[Report]:
    """A progress bar over one trial's epochs, for its reports."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps · {task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        name = f"{config.objective} {config.model}"
        task = progress.add_task(name, total=None, numbers="starting")
        accuracy: float | None = None
        told = time.monotonic()

        def hear(report: dict[str, Any]) -> None:
            nonlocal accuracy, told
            if points := [Point(*point) for point in report.get("points", ())]:
                last = points[-1]
                accuracy = next(
                    (p.metrics[ACCURACY_CURVE] for p in reversed(points) if ACCURACY_CURVE in p.metrics), accuracy
                )
                total = round(last.step / last.metrics[EPOCH] * config.epochs)
                numbers = f"loss {last.metrics[LOSS]:.4g} · {last.metrics[PAIRS_PER_SECOND]:.0f} pairs/s"
                if accuracy is not None:
                    numbers += f" · reward accuracy {accuracy:.3f}"
                progress.update(task, completed=last.step, total=total, numbers=numbers)
                if not console.is_terminal and time.monotonic() - told >= BEAT_SECONDS:
                    told = time.monotonic()
                    tell(f"{name}: step {last.step} of {total} · {numbers}")
            if report.get("finished"):
                epoch, checkpoint = report["finished"]
                progress.console.print(f"epoch {epoch}: reward accuracy {accuracy:.4f} · {checkpoint}")
            if report.get("said"):
                progress.console.print(report["said"], highlight=False)

        yield hear


def print_examples(inputs: Inputs, count: int) -> dict[str, list]:
    """The first examples as training sees them, as the columns of a table; prints them too."""
    from mmpo_train.data.examples import LEGEND, as_columns, as_text, first_examples
    from mmpo_train.prepare import tokenizer_of

    tokenizer = tokenizer_of(inputs)
    shown = first_examples(inputs.data.train, tokenizer, inputs.config, count)
    console.print(f"\n{LEGEND}\n")
    for example, tokens in shown:
        console.print(as_text(example, tokens, tokenizer))
        console.print()
    return as_columns(shown, tokenizer)
