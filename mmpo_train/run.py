"""One trial, from prepared folders to checkpoints: what every worker executes, under Ray or without it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmpo_train.checkpoint import (
    checkpoint_folder,
    load_epoch,
    resumable_epoch,
    save_epoch,
    save_policy,
    write_trial,
)
from mmpo_train.config import NEEDS_UNRELATED, ONLINE_OBJECTIVES, TrialConfig, to_dict
from mmpo_train.early_stop import GO_ON, STOP, Stopped, read_answer
from mmpo_train.engine import Engine
from mmpo_train.events import Finished, Point, Send
from mmpo_train.logps import CompletionLogps
from mmpo_train.loop import Diverged, train
from mmpo_train.manifest import is_whole
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.passes import Passes, find_passes, remember, remembered
from mmpo_train.policy import load_model, load_tokenizer
from mmpo_train.prepare import Places
from mmpo_train.reference import UNRELATED, read_reference, read_split
from mmpo_train.scoring import ScoredTable
from mmpo_train.segments import Ask, Segment, read_segment, segment_request
from mmpo_train.tokens import TokenTable, read_table

# Sending is collective and may wait for its receiver, so points travel in bundles.
_SECONDS_BETWEEN_SENDS = 1.0
_SECONDS_BETWEEN_LOOKS = 0.5


def run_trial(
    config: TrialConfig,
    places: Places,
    make_engine: Callable[[CompletionLogps, TrialConfig], Engine],
    send: Send,
    ask: Ask | None = None,
    say: Callable[[str], None] = lambda text: None,
    *,
    watched: bool = False,
) -> None:
    """Train the trial to its end, from its last whole epoch checkpoint where it has one.

    `ask` has the segments made that online objectives need; `say` is told, on every worker, what a person should know.
    A `watched` trial waits at each epoch's end but the last for leave to go on. Raises Stopped where it is refused,
    Diverged, and OutOfMemory; called again after that, the trial takes the smaller passes that it remembers.
    What was measured by then has been sent.
    """
    folder = places.trial(config)
    model, tokenizer = load_model(places.model, config=config), load_tokenizer(places.model)
    engine = make_engine(CompletionLogps(model, one_projection=config.zero_stage == 3), config)
    if engine.worker == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_trial(folder, config)
    finished = first_workers(engine, lambda: resumable_epoch(folder, engine.workers, config.zero_stage))
    outbox, reference_point = Outbox(send), RunningMean()
    if finished:
        outbox.history, reference_point = load_epoch(folder, finished, engine)
        # Sent once more: a driver that was killed may not have got them. It drops what it has.
        for epoch in range(1, finished + 1):
            send(
                outbox.history if engine.worker == 0 and epoch == 1 else [],
                Finished(epoch, str(checkpoint_folder(folder, epoch))),
            )
        if watched and finished < config.epochs:
            wait_for_leave(engine, folder, finished)

    def publish(epoch: int, step: int, point: RunningMean) -> None:
        outbox.flush(None)
        checkpoint = save_epoch(folder, epoch, step, config, model, tokenizer, engine, outbox.history, point)
        outbox.flush(Finished(epoch, str(checkpoint)))
        if watched and epoch < config.epochs:
            wait_for_leave(engine, folder, epoch)

    tables = {
        split: ScoredTable(read_table(places.tokens, split), read_reference(places.reference, split))
        for split in ("train", "validation")
    }
    unrelated = None
    if config.objective in NEEDS_UNRELATED:
        unrelated = ScoredTable(read_split(places.tokens, UNRELATED), read_reference(places.unrelated, UNRELATED))

    passes = passes_of(config, engine, tables["train"].table, folder, say)

    def make_segment(segment: int, prompts: np.ndarray) -> Segment:
        outbox.flush(None)
        target = folder / "segments" / f"segment-{segment + 1:04d}"
        if not first_workers(engine, lambda: is_whole(target)):
            assert ask is not None
            policy = places.model
            if segment:
                policy = target.with_name(f"policy-{segment + 1:04d}")
                save_policy(policy, config, model, tokenizer, engine, segment=segment + 1)
            request = segment_request(
                to_dict(config),
                segment,
                prompts,
                policy=policy,
                model=places.model,
                tokens=places.tokens,
                target=target,
            )
            is_made = ask(request) if engine.worker == 0 else lambda: False
            # Not a barrier: answering may take longer than a collective operation may wait.
            while not first_workers(engine, is_made):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            if segment and engine.worker == 0:
                shutil.rmtree(policy)
        return read_segment(target)

    try:
        train(
            config,
            tables["train"],
            tables["validation"],
            engine,
            passes,
            keep_passes=lambda smaller: remember(folder, config, smaller),
            report=outbox.put,
            publish=publish,
            finished_epochs=finished,
            reference_point=reference_point,
            unrelated=unrelated,
            make_segment=make_segment if config.objective in ONLINE_OBJECTIVES else None,
        )
    except Diverged:
        outbox.flush(None)
        raise


def passes_of(
    config: TrialConfig, engine: Engine, table: TokenTable, folder: Path, say: Callable[[str], None]
) -> Passes:
    """Those that the trial began with, or goes on with after it ran out of memory; else new ones."""
    known = remembered(folder, config)
    if first_workers(engine, lambda: known is not None):
        assert known is not None, f"{folder} is not the same on all workers"
        engine.recompute_activations(known.checkpointing)
        return known
    keep = (lambda passes: remember(folder, config, passes)) if engine.worker == 0 else (lambda passes: None)
    passes = find_passes(config, engine, table, keep)
    if passes.layout != config.layout:
        say(f"this model cannot be trained on {config.layout} passes: {passes}")
    return passes


def wait_for_leave(engine: Engine, folder: Path, epoch: int) -> None:
    """Return when the trial may go on after an epoch. Raises Stopped, on all workers, when it may not."""
    answers = {"": 0, GO_ON: 1, STOP: 2}
    while not (answer := first_workers(engine, lambda: answers[read_answer(folder, epoch)])):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if answer == answers[STOP]:
        raise Stopped(f"stopped early, after epoch {epoch}")


def first_workers(engine: Engine, find: Callable[[], int]) -> int:
    """What worker 0 finds, on all of them: on a shared file system the others may see a folder a moment later."""
    found = find() if engine.worker == 0 else 0
    return int(engine.sum(np.array([found], dtype=np.float64))[0])


class Outbox:
    """Points that have not been sent yet; every worker's fills and empties at the same steps."""

    def __init__(self, send: Send) -> None:
        self.send, self.seconds = send, 0.0
        self.points: list[Point] = []
        self.history: list[Point] = []

    def put(self, metrics: dict[str, float], step: int) -> None:
        """Keep a step's metrics; send when enough training time (the same number on all workers) has gathered."""
        self.points.append(Point(step, time.time_ns() // 1_000_000, metrics))
        self.history.append(self.points[-1])
        self.seconds += metrics["train/step_seconds"]
        if self.seconds >= _SECONDS_BETWEEN_SENDS:
            self.flush(None)

    def flush(self, finished: Finished | None) -> None:
        """Send what is there."""
        if self.points or finished:
            self.send(self.points, finished)
        self.points, self.seconds = [], 0.0
