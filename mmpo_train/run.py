"""One trial, from prepared folders to checkpoints: what every worker executes, under Ray or without it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mmpo_train.checkpoint import checkpoint_folder, load_epoch, resumable_epoch, save_epoch, write_trial
from mmpo_train.config import TrialConfig
from mmpo_train.engine import Engine
from mmpo_train.events import Finished, Point, Send
from mmpo_train.logps import CompletionLogps
from mmpo_train.loop import Diverged, ScoredTable, train
from mmpo_train.policy import load_model, load_tokenizer
from mmpo_train.prepare import Places
from mmpo_train.reference import read_reference
from mmpo_train.tokens import read_table

# Sending is collective and may wait for its receiver, so points travel in bundles.
_SECONDS_BETWEEN_SENDS = 1.0


def run_trial(
    config: TrialConfig, places: Places, make_engine: Callable[[CompletionLogps, TrialConfig], Engine], send: Send
) -> None:
    """Train the trial to its end, from its last whole epoch checkpoint where it has one.

    Raises Diverged; whatever was measured until then has been sent.
    """
    folder = places.trial(config)
    model, tokenizer = load_model(places.model, config=config), load_tokenizer(places.model)
    engine = make_engine(CompletionLogps(model, one_projection=config.zero_stage == 3), config)
    if engine.worker == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_trial(folder, config)
    # Worker 0's word counts: on a shared file system the others may see a folder a moment later.
    found = resumable_epoch(folder, engine.workers, config.zero_stage) if engine.worker == 0 else 0
    finished = int(engine.sum(np.array([found], dtype=np.float64))[0])
    outbox = _Outbox(send)
    if finished:
        outbox.history = load_epoch(folder, finished, engine)
        # Sent once more: a driver that was killed may not have got them. It drops what it has.
        for epoch in range(1, finished + 1):
            send(
                outbox.history if engine.worker == 0 and epoch == 1 else [],
                Finished(epoch, str(checkpoint_folder(folder, epoch))),
            )

    def publish(epoch: int, step: int) -> None:
        outbox.flush(None)
        checkpoint = save_epoch(folder, epoch, step, config, model, tokenizer, engine, outbox.history)
        outbox.flush(Finished(epoch, str(checkpoint)))

    tables = {
        split: ScoredTable(read_table(places.tokens, split), read_reference(places.reference, split))
        for split in ("train", "validation")
    }
    try:
        train(
            config,
            tables["train"],
            tables["validation"],
            engine,
            report=outbox.put,
            publish=publish,
            finished_epochs=finished,
        )
    except Diverged:
        outbox.flush(None)
        raise


class _Outbox:
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
