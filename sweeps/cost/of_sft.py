"""What an instruction tuning will cost: the forecast of stage 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sweeps.cluster.placement import hardware
from sweeps.cost.arithmetic import CHARACTERS_PER_TOKEN, Forecast, Lengths, ModelSize, Work, work_of
from sweeps.cost.of_trials import finished_trials, read_size, speed_of

if TYPE_CHECKING:
    from mmpo_train.sft.data import Chat
    from mmpo_train.sft.prepare import SFTInputs
    from mmpo_train.sft.trial import SFTTrial
    from sweeps.cluster.placement import TrialResources
    from sweeps.ledger.ledger import Ledger

_SAME_FIELDS = ("model_fingerprint", "data_fingerprint", "max_tokens", "turns", "precision")
_SPEED_FIELDS = ("epochs", "conversations_per_step", "validate_every_steps")


def forecast_sft(
    inputs: SFTInputs,
    experiment: str,
    resources: TrialResources,
    ledger: Ledger | None,
    price_per_gpu_hour: float | None = None,
) -> Forecast:
    """What tuning will cost: by what finished tunings of the same model and data on the same hardware took, or by FLOP.

    Forward and backward on every token, and the validations; there is no reference model. A tuning that goes on from
    a checkpoint is counted in full.
    """
    trial = inputs.config
    size = read_size(inputs.model_folder, trial.recipe)
    train, validation, counted = chat_lengths(inputs)
    work = sft_work(size, train, validation, trial)
    measured: list[tuple[float, float, Work]] = []
    if ledger is not None:
        same = {name: getattr(trial, name) for name in _SAME_FIELDS}

        def work_in(params: Mapping[str, str]) -> Work:
            from mmpo_train.sft.trial import change

            fields = {name: int(params[name]) for name in _SPEED_FIELDS}
            return sft_work(size, train, validation, change(trial, fields))

        measured = finished_trials(ledger, experiment, same, hardware(resources), work_in)
    speed = speed_of(measured, work, resources, counted)
    seconds = speed.seconds(work)
    hours = seconds * resources.workers / 3600
    kind = "GPU" if resources.use_gpu else "CPU"
    return Forecast(1, work.steps, hours, seconds, kind, speed.source, price_per_gpu_hour)


def sft_work(size: ModelSize, train: Lengths, validation: Lengths, trial: SFTTrial) -> Work:
    """The work of one tuning on a data set."""
    return work_of(
        size,
        train,
        validation,
        epochs=trial.epochs,
        pairs_per_step=trial.conversations_per_step,
        validate_every_steps=trial.validate_every_steps,
        lora=False,
        judged=False,
    )


def chat_lengths(inputs: SFTInputs) -> tuple[Lengths, Lengths, str]:
    """Tokens of the train and the validation conversations, from the token tables or guessed from the text; and which.

    A conversation is one completion without a prompt: every token of it is computed once.
    """
    from mmpo_train.sft.prepare import tokens_folder
    from mmpo_train.sft.tokens import read_chat_counts, read_chats

    folder = tokens_folder(inputs)
    if folder.is_dir() and read_chat_counts(folder) is not None:
        train, validation = (_whole(read_chats(folder, split).lengths) for split in ("train", "validation"))
        return train, validation, "tokens counted"
    train, validation = (
        _whole(_guessed(inputs.data.conversations(split), inputs.config.max_tokens))
        for split in ("train", "validation")
    )
    return train, validation, f"{CHARACTERS_PER_TOKEN:g} characters taken for a token"


def _whole(lengths: np.ndarray) -> Lengths:
    return Lengths(np.zeros(len(lengths), dtype=np.int64), lengths.astype(np.int64)[:, None])


def _guessed(chats: Iterable[Chat], most: int) -> np.ndarray:
    characters = np.array([sum(len(turn.content) for turn in chat.turns) for chat in chats])
    return np.minimum(np.ceil(characters / CHARACTERS_PER_TOKEN), most).astype(np.int64)
