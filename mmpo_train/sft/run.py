"""Instruction tuning of one model, from prepared folders to checkpoints: what every worker executes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from mmpo_train.config import TrialConfig
from mmpo_train.data.tokens import TokenTable
from mmpo_train.engines.engine import Engine
from mmpo_train.engines.passes import Passes, remember
from mmpo_train.events import Finished, Send
from mmpo_train.metric_names import (
    EPOCH,
    GRADIENT_NORM,
    LEARNING_RATE,
    LOSS,
    LOSS_CURVE,
    STEP_SECONDS,
    TOKENS_PER_SECOND,
    TRAIN,
)
from mmpo_train.model.batches import collate, consecutive, epoch_order, plan_passes
from mmpo_train.model.layouts import is_out_of_memory
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, load_tokenizer
from mmpo_train.schedule import learning_rate_at
from mmpo_train.sft.prepare import SFTPlaces
from mmpo_train.sft.tokens import ChatTable, learned_only, read_chats
from mmpo_train.sft.trial import SFTTrial
from mmpo_train.storage.manifest import verify
from mmpo_train.storage.mirror import name_of, need
from mmpo_train.trial.checkpoint import checkpoint_folder, save_policy, write_trial
from mmpo_train.trial.loop import Diverged, OutOfMemory, mean_seconds
from mmpo_train.trial.outbox import Outbox
from mmpo_train.trial.resume import Progress, keep_state, resume
from mmpo_train.trial.run import passes_of, send_again

_TRIED_CONVERSATIONS = 4096
"""Of which passes are found by trying, the longest of all among them."""

Report = Callable[[dict[str, float], int], None]
Publish = Callable[[int, int], None]
"""Takes a finished epoch (from 1) and its last step."""
Keep = Callable[[int, int], None]
"""Takes the epochs that are finished and the last step."""


def run_sft(
    trial: SFTTrial,
    places: SFTPlaces,
    make_engine: Callable[[CompletionLogps, TrialConfig], Engine],
    send: Send,
    say: Callable[[str], None] = lambda text: None,
    safe: Callable[[int], None] = lambda step: None,
) -> None:
    """Tune to the end, from the newest whole state where there is one.

    `say` and `safe` are those of `run_trial`. Raises Diverged, and OutOfMemory; called again after that, the trial
    takes the smaller passes that it remembers.
    """
    folder, config = places.trial(trial), trial.engine_config()
    for needed in (places.model, places.tokens):
        need(needed)
    model, tokenizer = load_model(places.model, config=config), load_tokenizer(places.model)
    engine = make_engine(CompletionLogps(model, one_projection=config.zero_stage == 3), config)
    if engine.worker == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_trial(folder, trial)
    verify(places.tokens)
    train, validation = read_chats(places.tokens, "train"), read_chats(places.tokens, "validation")
    done = resume(folder, trial, engine)
    safe(done.step)
    outbox = Outbox(send, done.history)
    send_again(outbox, folder, done, engine)

    def keep(epochs: int, step: int) -> None:
        outbox.flush(None)
        keep_state(folder, trial, engine, Progress(step, epochs, history=outbox.history))
        safe(step)

    def publish(epoch: int, step: int) -> None:
        outbox.flush(None)
        checkpoint = checkpoint_folder(folder, epoch)
        save_policy(checkpoint, trial, model, tokenizer, engine, epoch=epoch, step=step)
        keep(epoch, step)
        outbox.flush(Finished(epoch, name_of(checkpoint)))

    tried = np.unique([*range(min(len(train), _TRIED_CONVERSATIONS)), int(np.argmax(train.lengths))])
    passes = passes_of(config, engine, train.take(tried)[0], folder, say)
    try:
        tune(
            trial,
            train,
            validation,
            engine,
            passes,
            keep_passes=lambda smaller: remember(folder, config, smaller),
            report=outbox.put,
            publish=publish,
            keep=keep,
            finished_steps=done.step,
        )
    except Diverged:
        outbox.flush(None)
        raise


def tune(
    trial: SFTTrial,
    train: ChatTable,
    validation: ChatTable,
    engine: Engine,
    passes: Passes,
    *,
    report: Report,
    publish: Publish,
    keep: Keep = lambda epochs, step: None,
    keep_passes: Callable[[Passes], None] = lambda passes: None,
    finished_steps: int = 0,
) -> None:
    """Optimise until the trial's epochs are done, from after step `finished_steps`.

    A step's loss is -sum log p(learned tokens) / their number, over all its conversations, in nats. What is seen in
    which order depends on the trial alone; `keep` is called every `checkpoint_minutes` within an epoch, `keep_passes`
    is told of smaller passes when memory runs out. Raises Diverged and OutOfMemory.
    """
    steps_per_epoch = math.ceil(len(train) / trial.conversations_per_step)
    total_steps = steps_per_epoch * trial.epochs
    kept = time.perf_counter()
    for epoch in range(finished_steps // steps_per_epoch + 1, trial.epochs + 1):
        order = epoch_order(len(train), trial.seed, epoch)
        for number, rows in enumerate(
            consecutive(order, trial.conversations_per_step), (epoch - 1) * steps_per_epoch + 1
        ):
            if number <= finished_steps:
                continue
            started = time.perf_counter()
            chats, marks = train.take(rows)
            learning_rate = learning_rate_at(number - 1, total_steps, trial.learning_rate, trial.warmup_share)
            loss, passes = _gradient(trial, engine, chats, marks, passes, keep_passes, number)
            _stop_if_not_finite("loss", loss, number)
            norm = engine.step(learning_rate)
            metrics = {
                EPOCH: number / steps_per_epoch,
                LEARNING_RATE: learning_rate,
                LOSS: loss,
            }
            if norm is not None:
                _stop_if_not_finite("gradient norm", norm, number)
                metrics[GRADIENT_NORM] = norm
            # Every worker must report the same numbers and write at the same steps: times are the workers' means.
            seconds, since_kept = mean_seconds(engine, started, kept)
            metrics |= {
                f"{TRAIN}conversations_per_second": len(rows) / seconds,
                TOKENS_PER_SECOND: int(chats.together.sum()) / seconds,
                STEP_SECONDS: seconds,
            }
            if number == epoch * steps_per_epoch or number % trial.validate_every_steps == 0:
                metrics[LOSS_CURVE] = validation_loss(engine, validation, passes)
            report(metrics, number)
            if number < epoch * steps_per_epoch and 0 < trial.checkpoint_minutes * 60 <= since_kept:
                keep(epoch - 1, number)
                kept = time.perf_counter()
        publish(epoch, epoch * steps_per_epoch)
        kept = time.perf_counter()


def validation_loss(engine: Engine, validation: ChatTable, passes: Passes) -> float:
    """-sum log p(learned tokens) / their number over all validation conversations, in nats."""
    chats, marks = validation.take(np.arange(len(validation)))
    with torch.no_grad():
        nats = _nats(engine, chats, marks, passes, backward_over=0)
    return nats / _learned(marks)


def _gradient(
    trial: SFTTrial,
    engine: Engine,
    chats: TokenTable,
    marks: list[np.ndarray],
    passes: Passes,
    keep_passes: Callable[[Passes], None],
    number: int,
) -> tuple[float, Passes]:
    """A step's loss, its gradient added to the engine's; from the beginning with smaller passes where memory runs out.

    Returns the passes too, since they may be smaller then.
    """
    while True:
        try:
            return _nats(engine, chats, marks, passes, _learned(marks)) / _learned(marks), passes
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = passes.smaller(chats, trial.gradient_checkpointing == "auto", engine.workers)
            what = f"step {number} ran out of memory with passes of {passes}"
            if smaller is None:
                raise OutOfMemory(
                    f"{what}, a conversation each: lower max_tokens, use more workers with zero_stage=3, or a GPU with "
                    "more memory"
                ) from error
            keep_passes(smaller)
            if not engine.discard():
                raise OutOfMemory(f"{what}; begun again, the trial takes {smaller}") from error
        passes = smaller
        engine.recompute_activations(smaller.checkpointing)


def _nats(engine: Engine, chats: TokenTable, marks: list[np.ndarray], passes: Passes, backward_over: int) -> float:
    """-sum log p of the learned tokens, over all workers; with `backward_over` the gradient of that share is added."""
    total, everything = 0.0, np.arange(len(chats))
    for some in plan_passes(chats, everything, passes.tokens, engine.workers, passes.layout)[
        engine.worker :: engine.workers
    ]:
        shown = some if len(some) else everything[:1]  # an empty pass keeps this worker in step with the others
        weight = 1.0 if len(some) else 0.0
        one = learned_only(collate(chats, shown, passes.layout), [marks[place] for place in shown])
        nats = -engine.logps(one).sum()
        if backward_over:
            engine.backward(weight * nats / backward_over)
        total += weight * float(nats.detach())
    return float(engine.sum(np.array([total]))[0])


def _learned(marks: list[np.ndarray]) -> int:
    return sum(int(mark.sum()) for mark in marks)


def _stop_if_not_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {what} is {value} at step {step}")
