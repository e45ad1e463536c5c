"""Faults at a stage at work: of its processes, of its files, of its nodes, and a second command beside it."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

import psutil

from faults import files
from faults.engine import Hung, NotFired, within
from faults.machines import Machines
from faults.processes import SIGNALS
from faults.stage import PARTS, SECONDS, Stage

NOTICE_SECONDS = 20
Fault = Callable[[Stage, Random], bool]
"""Fires at a stage at work, proves it, and says whether it was: not where it found nobody, or the work had ended."""


def disturb(stage: Stage, faults: dict[str, Fault], when: Iterable[tuple[float, int, str]], random: Random) -> None:
    """Fire faults at a stage, each so many seconds and steps after the one before, until it has ended well or all are
    fired."""
    for seconds, steps, kind in when:
        if not stage.goes_on(seconds, steps):
            return
        with open(stage.case.log, "a") as log:
            print(f"--- {time.strftime('%X')} {kind}, at {sorted(stage.heard().values())}", file=log)
        if faults[kind](stage, random):
            stage.hit(kind)


def _signalled(stage: Stage, random: Random, numbers: tuple[int, ...]) -> bool:
    was_at_work = bool(stage.heard()) and not stage.reached
    for number in numbers:
        stage.process.send_signal(number)
        time.sleep(random.uniform(0, 0.5))
    status = stage.end(120)
    if status == 0:  # it had ended before
        return False
    # Negative where it came before the program had begun.
    if status not in {*(128 + number for number in numbers), *(-number for number in numbers)}:
        raise RuntimeError(f"status {status}: {stage.words_said()[-2000:]}")
    if signal.SIGKILL not in numbers and was_at_work:
        _no_run_is_running(stage)
    stage.start()
    return True


def _found(stage: Stage, part: str, random: Random) -> psutil.Process | None:
    """A process of a part, which may have to start yet; None if there is none for a minute, or the work has ended."""
    for _ in range(120):
        if there := stage.of(part):
            return random.choice(there)
        if not stage.goes_on(0.5):
            return None
    return None


def _killed(stage: Stage, random: Random, part: str) -> bool:
    victim = _found(stage, part, random)
    if victim is None:
        return False
    stage.may_end = stage.may_end or part in _ENDED_BY
    victim.kill()
    within(20, f"{victim} lives", lambda: victim not in stage.look())
    return True


def _stopped(stage: Stage, random: Random, part: str) -> bool:
    """Like a paused machine, but only a part of it."""
    victim = _found(stage, part, random)
    if victim is None:
        return False
    victim.suspend()
    time.sleep(random.uniform(1, 20))
    proven = victim.status() == psutil.STATUS_STOPPED
    victim.resume()
    return proven


def _all_killed(stage: Stage, random: Random, damage: files.Damage | None = None) -> bool:
    if stage.process.poll() == 0:
        return False
    stage.kill()
    if damage is not None:
        # A bit of MLflow's database may be any number in it.
        path = files.drawn(stage.case, but=r"lock$|\.db" if damage is files.flip else "lock$")
        before = path.read_bytes()
        damage(path, stage.case)
        stage.case.damaged.add(path)
        with open(stage.case.log, "a") as log:
            print(f"{damage.__name__} {path}", file=log)
        if path.exists() and path.read_bytes() == before:
            raise NotFired(f"{path} is as it was")
    stage.start()
    return True


def _stage_2(words: list[str]) -> list[str]:
    """The command of another stage, one of whose trials is stage 1's."""
    where = words.index("--learning-rates")
    own = ["--learning-rate", "1e-3", "--betas", "0.1"]
    return [words[0], "sweeps/stage2_beta.py", *words[2:where], *own, *words[where + 3 :]]


def _two(stage: Stage, random: Random, second_of: Callable[[list[str]], list[str]]) -> bool:
    """A second command on the same storage and trials. It has to say so, or to use what has ended."""
    if stage.process.poll() is not None:
        return False
    log, words = stage.case.folder / "second.txt", second_of(stage.words)
    with open(log, "w") as file:
        second = subprocess.Popen(words, stdout=file, stderr=file, env=stage.environment, start_new_session=True)
    until = time.monotonic() + SECONDS
    try:
        while second.poll() is None:
            stage.look()
            time.sleep(0.5)
            if time.monotonic() > until:
                raise Hung(f"a second command had not ended after {SECONDS:.0f} s: {log.read_text()[-1000:]}")
    finally:
        second.kill()
    if stage.process.poll() == 2:  # the second was there before it
        stage.start()
    if second.returncode not in (0, 2) or "Traceback" in log.read_text():
        raise RuntimeError(f"a second command: status {second.returncode}, {log.read_text()[-2000:]}")
    return True


def _node_lost(stage: Stage, random: Random, machines: Machines) -> bool:
    """A node with a worker dies, and another one joins."""
    node = machines.of(_found(stage, "a worker", random))
    if node is None:
        return False
    machines.lose(node)
    machines.join()
    return True


def _noticed(stage: Stage, random: Random, machines: Machines) -> bool:
    """A cloud says that it takes away a node with a worker, and does so: the workers have left it by then."""
    node = machines.of(_found(stage, "a worker", random))
    if node is None:
        return False
    machines.announce(node, NOTICE_SECONDS)
    until = time.monotonic() + NOTICE_SECONDS
    while stage.goes_on(0.3) and machines.has_workers(node) and time.monotonic() < until:
        pass
    stayed = machines.has_workers(node)
    machines.lose(node)
    if stayed:
        raise RuntimeError("the workers had not left the node when it was taken away")
    machines.join()
    return True


_ENDED_BY = ("raylet", "GCS")
"""Parts without which the command ends, in its own words. Without the others it goes on."""
HERE: dict[str, Fault] = {
    **{f"{name} to the command": partial(_signalled, numbers=numbers) for name, numbers in SIGNALS.items()},
    **{f"SIGKILL to {part}": partial(_killed, part=part) for part in PARTS if part != "the command"},
    **{f"SIGSTOP of {part}": partial(_stopped, part=part) for part in PARTS},
    "SIGKILL to all at once": _all_killed,
    **{f"{name}, after SIGKILL": partial(_all_killed, damage=damage) for name, damage in files.DAMAGES.items()},
    "the same command twice at once": partial(_two, second_of=list),
    "two stages at once": partial(_two, second_of=_stage_2),
}


def on(machines: Machines) -> dict[str, Fault]:
    """The faults of a stage on a cluster. Its head is another's: the command cannot bring it back."""
    without = (*_ENDED_BY, "SIGKILL to all", "after SIGKILL")
    return {
        **{kind: fault for kind, fault in HERE.items() if not any(word in kind for word in without)},
        "node lost": partial(_node_lost, machines=machines),
        "node taken away with notice": partial(_noticed, machines=machines),
    }


def _no_run_is_running(stage: Stage) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{stage.case.storage}/mlflow.db")
    runs: list[Any] = list(client.search_runs([one.experiment_id for one in client.search_experiments()]))
    if open_ones := [run.info.run_name for run in runs if run.info.status == "RUNNING"]:
        raise RuntimeError(f"{json.dumps(open_ones)} say that they are running; {stage.words_said()[-1500:]}")
