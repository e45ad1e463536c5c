"""Instruction tuning of one model, from prepared folders to checkpoints. Every worker executes it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from mmpo_train.data.tokens import TokenTable
from mmpo_train.devices import fetched
from mmpo_train.engines.engine import Engine
from mmpo_train.engines.passes import Passes
from mmpo_train.events import Send
from mmpo_train.model.batches import collate, epoch_order, plan_passes
from mmpo_train.objectives.reference_point import RunningMean
from mmpo_train.sft.tokens import ChatTable, learned_only, read_chats
from mmpo_train.sft.trial import SFTTrial
from mmpo_train.storage.manifest import verify
from mmpo_train.trial.loop import Step
from mmpo_train.trial.places import Places
from mmpo_train.trial.run import MakeEngine, Running, run_task

_TRIED_CONVERSATIONS = 4096
"""Conversations with which the size of passes is tried; the longest is among them."""


def run_sft(trial: SFTTrial, places: Places, make_engine: MakeEngine, send: Send, **how: Any) -> None:
    """Tune a model to the end of its epochs. `how`: say, safe, copied, watched, judged and told_to_go, as of
    `run_task`."""

    def conversations(running: Running) -> Conversations:
        verify(places.tokens)
        train, validation = read_chats(places.tokens, "train"), read_chats(places.tokens, "validation")
        return Conversations(train, validation, running.engine, partial(epoch_order, len(train), trial.seed))

    needed = (places.model, places.tokens)
    config, folder = trial.engine_config(), places.trial(trial)
    run_task(trial, config, folder, needed, conversations, make_engine, send, **how)


class Conversations:
    """The `Task` of instruction tuning. The loss of a step, in nats, is the mean of -log p over the learned tokens of
    all its conversations."""

    examples = "conversations"
    advice = "lower max_tokens, use more workers with zero_stage=3, or a GPU with more memory"
    reference_point = RunningMean()

    def __init__(
        self, train: ChatTable, validation: ChatTable | None, engine: Engine, order: Callable[[int], np.ndarray]
    ) -> None:
        """`order` returns the order of an epoch (from 1)."""
        self.train, self.validate_on, self.engine, self.order = train, validation, engine, order

    def __len__(self) -> int:
        return len(self.train)

    @property
    def tried(self) -> TokenTable:
        some = range(min(len(self), _TRIED_CONVERSATIONS))
        return self.train.take(np.unique([*some, int(np.argmax(self.train.lengths))]))[0]

    def begin_epoch(self, epoch: int) -> np.ndarray:
        return self.order(epoch)

    def get_ready(self, step: int) -> None:
        return None

    def step_of(self, examples: np.ndarray, number: int, passes: Passes) -> Step:
        chats, marks = self.train.take(examples)
        return Step(chats, partial(self._add_gradient, chats, marks))

    def validation(self, passes: Passes) -> dict[str, float]:
        if self.validate_on is None:
            return {}
        chats, marks = self.validate_on.take(np.arange(len(self.validate_on)))
        with torch.no_grad():
            return {"loss": self._nats(chats, marks, passes) / _learned(marks)}

    def _add_gradient(self, chats: TokenTable, marks: list[np.ndarray], passes: Passes) -> dict[str, float]:
        nats = self._nats(chats, marks, passes, backward_over=_learned(marks))
        return {"loss": nats / _learned(marks), "tokens": int(chats.together.sum())}

    def _nats(self, chats: TokenTable, marks: list[np.ndarray], passes: Passes, backward_over: int = 0) -> float:
        """-sum log p of the learned tokens over all workers. With `backward_over` the gradient of that share is
        added."""
        engine, everything = self.engine, np.arange(len(chats))
        seen: list[torch.Tensor] = []
        planned = plan_passes(chats, everything, passes.tokens, engine.workers, passes.layout)
        for some in planned[engine.worker :: engine.workers]:
            shown = some if len(some) else everything[:1]  # an empty pass keeps this worker in step with the others
            weight = 1.0 if len(some) else 0.0
            one = learned_only(collate(chats, shown, passes.layout), [marks[place] for place in shown])
            nats = -engine.logps(one).sum()
            if backward_over:
                engine.backward(weight * nats / backward_over)
            seen += [nats.detach()] if len(some) else []
        total = sum(map(float, fetched(seen))) if seen else 0.0
        return float(engine.sum(np.array([total]))[0])


def _learned(marks: list[np.ndarray]) -> int:
    return sum(int(mark.sum()) for mark in marks)
