"""How programs end: by a mistake, by Ctrl-C, by the SIGTERM of Slurm, Kubernetes, systemd and `timeout`."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time

import pytest

from tests.support.workers import REPOSITORY

PROGRAM = """
import sys, time
from dataclasses import dataclass
from mmpo_train.terminal import ended_by, run_program, told_by_signal

@dataclass(frozen=True)
class Options:
    pass

def at_once(options):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("tidying up", flush=True)
        time.sleep(sys.argv[1] == "twice")
        print("tidied up", flush=True)

def in_time(options):
    with told_by_signal() as told:
        print("begun", flush=True)
        while not told():
            time.sleep(0.01)
        print("told", flush=True)
        if sys.argv[1] == "slow":
            time.sleep(60)
        raise ended_by(told())

run_program(Options, at_once if sys.argv[1] in ("at once", "twice") else in_time, "a program", [])
"""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "interrupted")])
@pytest.mark.parametrize("how", ["at once", "twice", "in time", "slow"])
def test_a_signal_ends_a_program_tidily_and_one_sentence_says_how_to_go_on(number, said, how):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        cwd=REPOSITORY,
        text=True,
        bufsize=1,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout and program.stdout.readline() == "begun\n"
    began = time.monotonic()
    program.send_signal(number)
    if how == "slow":
        assert "told\n" in iter(program.stdout.readline, "")
    if how == "twice":
        assert program.stdout.readline() == "tidying up\n"
    if how in ("slow", "twice"):
        program.send_signal(number)
    out, err = program.communicate(timeout=30)
    assert time.monotonic() - began < 20 and program.returncode == 128 + number
    assert err == f"{said}; rerun the same command to continue from the last saved states\n"
    assert {"at once": "tidied up\n", "twice": "tidied up\n", "in time": "told\n", "slow": ""}[how] in out


IN_DESTRUCTOR = PROGRAM.replace(
    "def at_once",
    """class Slow:
    def __del__(self):
        print("begun", flush=True)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass

def in_destructor(options):
    while True:
        Slow()
        time.sleep(1)

def at_once""",
).replace("run_program(Options, ", "run_program(Options, in_destructor if sys.argv[1] == 'destructor' else ")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_signal_that_comes_where_python_ignores_errors_ends_a_program_too(number, said):
    words = [sys.executable, "-c", IN_DESTRUCTOR, "destructor"]
    program = subprocess.Popen(words, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout and program.stdout.readline() == "begun\n"
    program.send_signal(number)
    _, err = program.communicate(timeout=30)
    assert program.returncode == 128 + number
    assert err == f"{said}; rerun the same command to continue from the last saved states\n"


def test_a_signal_that_is_ignored_stays_ignored():
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    program = subprocess.Popen(
        [sys.executable, "-c", ignoring + PROGRAM.replace("sleep(60)", "sleep(1)"), "at once"],
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert program.stdout and program.stdout.readline() == "begun\n"
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=30)[0] == "tidying up\ntidied up\n" and program.returncode == 0


@pytest.mark.parametrize("how", ["at once", "in time"])
def test_a_terminal_that_goes_ends_a_program_tidily(how, tmp_path):
    """As at the end of an SSH session: whatever is printed from then on would fail."""
    ours, theirs = os.openpty()

    def take_it() -> None:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started with nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    tidied = tmp_path / "tidied"
    words = [sys.executable, "-c", PROGRAM.replace('print("ti', f'open({str(tidied)!r}, "a"); print("ti'), how]
    program = subprocess.Popen(words, cwd=REPOSITORY, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_it)
    os.close(theirs)
    assert os.read(ours, 5) == b"begun"
    os.close(ours)
    assert program.wait(30) == 128 + signal.SIGHUP and tidied.exists() == (how == "at once")
