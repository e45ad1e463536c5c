"""One trial, from prepared folders to checkpoints. Every worker executes it, under Ray or without it."""

import hashlib
import math
import shutil
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmpo_train.config import NEEDS_UNRELATED, ONLINE_OBJECTIVES, TrialConfig, to_dict
from mmpo_train.data.tokens import read_table
from mmpo_train.engines.engine import Engine, first_workers
from mmpo_train.engines.passes import remember, remembered
from mmpo_train.engines.trying import passes_of
from mmpo_train.errors import Left
from mmpo_train.events import Finished, Send
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, load_tokenizer
from mmpo_train.model.reference import UNRELATED, read_reference, read_split
from mmpo_train.model.scoring import ScoredTable
from mmpo_train.storage.manifest import DamagedFolder
from mmpo_train.storage.mirror import address_of, fetch, is_here, name_of, need, publish, withdraw
from mmpo_train.trial.checkpoint import checkpoint_folder, save_policy, write_trial
from mmpo_train.trial.early_stop import Stopped, wait_for_leave
from mmpo_train.trial.loop import Diverged, Task, train
from mmpo_train.trial.orders import BY_PERSON, Orders
from mmpo_train.trial.outbox import Outbox
from mmpo_train.trial.places import AnyTrial, Places
from mmpo_train.trial.preferences import Preferences
from mmpo_train.trial.resume import Progress, copy_folder, forget_states, is_lost, keep_state, origin_of, resume
from mmpo_train.trial.segments import Ask, Segment, first_step, read_segment, segment_request

MakeEngine = Callable[[CompletionLogps, TrialConfig], Engine]

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Running:
    """A trial on one of its workers."""

    folder: Path
    """Folder of the trial."""
    engine: Engine
    save: Callable[..., None]
    """Writes the present policy to a folder, with facts by name. Every worker calls it."""
    outbox: Outbox
    done: Progress


def run_trial(
    config: TrialConfig, places: Places, make_engine: MakeEngine, send: Send, ask: Ask | None = None, **how: Any
) -> None:
    """Train on preference pairs to the end of the epochs, as `run_task` does; `ask` requests the segments of online
    objectives. `how`: say, safe, watched, judged, told_to_go and copied, as of `run_task`."""

    def preferences(running: Running) -> Preferences:
        tables = {
            split: ScoredTable(read_table(places.tokens, split), read_reference(places.reference, split))
            for split in ("train", "validation")
        }
        unrelated = None
        if config.objective in NEEDS_UNRELATED:
            unrelated = ScoredTable(read_split(places.tokens, UNRELATED), read_reference(places.unrelated, UNRELATED))
        make_segment = None
        if config.objective in ONLINE_OBJECTIVES:
            make_segment = partial(_make_segment, config, places, running, ask, len(tables["train"].table))
        more: dict[str, Any] = {"unrelated": unrelated, "make_segment": make_segment}
        pairs = tables["train"], tables["validation"]
        return Preferences(config, *pairs, running.engine, reference_point=running.done.reference_point, **more)

    extra = (places.unrelated,) if config.objective in NEEDS_UNRELATED else ()
    needed = (places.model, places.tokens, places.reference, *extra)
    run_task(config, config, places.trial(config), needed, preferences, make_engine, send, **how)


def run_task(
    trial: AnyTrial,
    config: TrialConfig,
    folder: Path,
    needed: Sequence[Path],
    make_task: Callable[[Running], Task],
    make_engine: MakeEngine,
    send: Send,
    *,
    say: Callable[[str], None] = lambda text: None,
    safe: Callable[[int], None] = lambda step: None,
    watched: bool = False,
    judged: Collection[int] = (),
    told_to_go: Callable[[], bool] = lambda: False,
    copied: Callable[[int], None] = lambda step: None,
) -> None:
    """Train a trial in its folder to its end, from its newest complete state.

    `config` is the trial as the loop and the engine read it; the first of the folders `needed` is the model's. `say`
    receives messages for the user on every worker, `safe` the step up to which nothing can be lost, at the start and
    with each saved state, `copied` the step of a state for clones that a person has ordered. A lost checkpoint is made
    again unless its epoch is among those `judged`. A `watched` trial waits at the end of each epoch but the last for
    permission to continue. Raises Stopped if that is refused, or after an order of a person (`trial/orders.py`),
    Diverged, OutOfMemory (called again after that, the trial takes smaller passes), and Left soon after `told_to_go`
    became true. All points measured by then have been sent.
    """
    for one in needed:
        need(one)
    model, tokenizer = load_model(needed[0], config=config), load_tokenizer(needed[0])
    engine = make_engine(CompletionLogps(model, one_projection=config.zero_stage == 3), config)
    assert not address_of(folder) or on_one_node(engine), "workers on several nodes would write into several copies"
    if engine.worker == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_trial(folder, trial)

    def save(target: Path, **facts: Any) -> None:
        save_policy(target, trial, model, tokenizer, engine, **facts)

    done = resume(folder, trial, engine, judged)
    unfinished = done.inherited < done.epochs < config.epochs
    if unfinished and first_workers(engine, lambda: done.epochs not in judged and is_lost(folder, done.epochs)):
        last = checkpoint_folder(folder, done.epochs)
        save(last, epoch=done.epochs, step=done.step, reference_point=done.reference_point)
    safe(done.step)
    outbox = Outbox(send, done.history)
    send_again(outbox, folder, done, engine)
    if watched and 0 < done.epochs < config.epochs:
        wait_for_leave(engine, folder, done.epochs)

    task = make_task(Running(folder, engine, save, outbox, done))

    def keep(epochs: int, step: int) -> None:
        outbox.flush(None)
        keep_state(folder, trial, engine, progress(epochs, step))
        safe(step)

    def progress(epochs: int, step: int) -> Progress:
        return Progress(step, epochs, task.reference_point, outbox.history, done.inherited)

    def copy(epochs: int, step: int) -> None:
        outbox.flush(None)
        keep_state(copy_folder(folder, step), trial, engine, progress(epochs, step))
        if engine.worker == 0 and (used := remembered(folder, config)) is not None:
            remember(copy_folder(folder, step), config, used)
        orders.obey()
        copied(step)

    def publish(epoch: int, step: int) -> None:
        outbox.flush(None)
        checkpoint = checkpoint_folder(folder, epoch)
        save(checkpoint, epoch=epoch, step=step, reference_point=task.reference_point)
        keep(epoch, step)
        outbox.flush(Finished(epoch, name_of(checkpoint)))
        if watched and epoch < config.epochs:
            wait_for_leave(engine, folder, epoch)

    orders = Orders(folder, engine.worker)
    passes = passes_of(config, engine, task.tried, folder, say, origin_of(folder, trial))
    try:
        train(
            config,
            task,
            engine,
            passes,
            report=outbox.put,
            publish=publish,
            keep=keep,
            keep_passes=lambda smaller: remember(folder, config, smaller),
            told_to_go=lambda: told_to_go() or orders.stops(),
            told_to_copy=orders.copies,
            copy=copy,
            finished_steps=done.step,
        )
    except Diverged:
        outbox.flush(None)
        raise
    except Left as left:
        if first_workers(engine, orders.stops):
            raise Stopped(f"{BY_PERSON} {str(left).removeprefix('left ')}") from None
        raise


def _make_segment(
    config: TrialConfig,
    places: Places,
    running: Running,
    ask: Ask | None,
    train_prompts: int,
    segment: int,
    prompts: np.ndarray,
) -> Segment:
    """The segment's answers, which are requested unless they exist. Every worker calls it."""
    running.outbox.flush(None)
    engine, target = running.engine, running.folder / "segments" / f"segment-{segment + 1:04d}"
    if not first_workers(engine, lambda: is_here(target)):
        assert ask is not None
        total_steps = math.ceil(train_prompts / config.pairs_per_step) * config.epochs
        if running.done.step >= first_step(segment, total_steps, config.segments):
            if engine.worker == 0:
                forget_states(running.folder, first_step(segment, total_steps, config.segments))
            raise DamagedFolder(f"{target} is damaged: started again, the trial goes back to before it")
        policy = places.model
        if segment:
            policy = target.with_name(f"policy-{segment + 1:04d}")
            running.save(policy, segment=segment + 1)
        folders = {"policy": policy, "model": places.model, "tokens": places.tokens, "target": target}
        request = segment_request(to_dict(config), segment, prompts, **folders)
        is_made = ask(request) if engine.worker == 0 else lambda: False
        # Not a barrier: answering may take longer than a collective operation may wait.
        while not first_workers(engine, is_made):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if segment and engine.worker == 0:
            shutil.rmtree(policy)
            withdraw(policy)
    fetch(target)
    return read_segment(target)


def send_again(outbox: Outbox, folder: Path, done: Progress, engine: Engine) -> None:
    """Send the trial's earlier points again, since a killed driver may not have received them; it skips known ones."""
    points = outbox.history if engine.worker == 0 else []
    if done.step:
        outbox.send(points, None)
    for epoch in range(done.inherited + 1, done.epochs + 1):
        checkpoint = checkpoint_folder(folder, epoch)
        if engine.worker == 0:
            publish(checkpoint)  # a node that is lost may not have come to it
        outbox.send([], Finished(epoch, name_of(checkpoint)))


def on_one_node(engine: Engine) -> bool:
    """Whether all workers run on the same machine, the same on all of them."""
    here = int(hashlib.sha256(socket.gethostname().encode()).hexdigest()[:10], 16)
    return float(engine.sum(np.array([here], dtype=np.float64))[0]) == here * engine.workers
