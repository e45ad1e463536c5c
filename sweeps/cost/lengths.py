"""Token counts of the data of trials, from the token tables, or estimated from the text before tokenisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmpo_train.chat.messages import said_in
from mmpo_train.sft.trial import SFTTrial
from sweeps.cost.arithmetic import CHARACTERS_PER_TOKEN, Lengths

if TYPE_CHECKING:
    from mmpo_train.data.rows import PreferenceExample
    from mmpo_train.training import AnyInputs

_SPLITS = ("train", "validation")


def lengths_of(inputs: AnyInputs) -> tuple[Lengths, Lengths, str]:
    """Lengths of the train and the validation split, and whether they are counted or estimated from the text.

    A conversation is one completion without a prompt: every token of it is computed once.
    """
    known = _counted(inputs)
    if known:
        return known[0], known[1], "tokens counted"
    train, validation = (_guessed(inputs, split) for split in _SPLITS)
    if inputs.counts:  # in a dry run, which keeps no tables
        scaled = [_scaled(one, inputs.counts[split].tokens) for one, split in zip((train, validation), _SPLITS)]
        return scaled[0], scaled[1], "tokens counted"
    return train, validation, f"{CHARACTERS_PER_TOKEN:g} characters per token assumed"


def _counted(inputs: AnyInputs) -> list[Lengths]:
    from mmpo_train.data.tokens import CutCount, read_counts, read_table

    folder = inputs.tokens
    if not folder.is_dir():
        return []
    if isinstance(inputs.config, SFTTrial):
        from mmpo_train.sft.tokens import ChatCount, read_chats  # imports torch

        chats = _SPLITS if read_counts(folder, ChatCount) is not None else ()
        return [_whole(read_chats(folder, split).lengths) for split in chats]
    tables = [read_table(folder, split) for split in _SPLITS] if read_counts(folder, CutCount) is not None else []
    return [Lengths(np.array([len(ids) for ids in table.prompts]), table.completion_tokens) for table in tables]


def _guessed(inputs: AnyInputs, split: str) -> Lengths:
    from mmpo_train.sft.prepare import SFTInputs

    if isinstance(inputs, SFTInputs):
        said = [sum(len(turn.content) for turn in chat.turns) for chat in inputs.data.conversations(split)]
        return _whole(_cut(np.array(said), inputs.config.max_tokens))
    config, examples = inputs.config, inputs.data.train if split == "train" else inputs.data.validation
    prompts = np.array([sum(len(turn.content) for turn in one.prompt) for one in examples])
    completions = _characters(examples)
    return Lengths(_cut(prompts, config.max_prompt_tokens), _cut(completions, config.max_completion_tokens))


def _scaled(guessed: Lengths, tokens: int) -> Lengths:
    """The lengths, with that many tokens in all."""
    ratio = tokens / guessed.tokens
    return Lengths(guessed.prompts * ratio, guessed.completions * ratio)


def _characters(examples: Sequence[PreferenceExample]) -> np.ndarray:
    """Characters of each completion, (N, K)."""
    completions = np.zeros((len(examples), max(len(one.completions) for one in examples)))
    for row, one in zip(completions, examples, strict=True):
        row[: len(one.completions)] = [max(1, len(said_in(completion))) for completion in one.completions]
    return completions


def _cut(characters: np.ndarray, most_tokens: int) -> np.ndarray:
    return np.minimum(np.ceil(characters / CHARACTERS_PER_TOKEN), most_tokens).astype(np.int64)


def _whole(tokens: np.ndarray) -> Lengths:
    return Lengths(np.zeros(len(tokens), dtype=np.int64), tokens.astype(np.int64)[:, None])
