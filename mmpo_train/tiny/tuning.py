"""Instruction tuning of `tiny`, in one process and without an engine.

Other models are tuned by `sft_run`. Its sums run in another order, so that with it tiny's weights, on which every
number in the README rests, would be others in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpo_train.schedule import learning_rate_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Batches of like length are cut from this many steps' worth of shuffled conversations: little padding, random order.
STEPS_PER_SORTED_WINDOW = 16


@dataclass(frozen=True)
class TokenizedConversation:
    """A conversation's token ids, and which of them the model is to learn to write."""

    token_ids: list[int]
    is_completion: list[bool]


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """How a model is instruction-tuned."""

    learning_rate: float
    """Peak learning rate; warmed up, then a cosine to 0."""
    conversations_per_step: int
    """Conversations in one optimiser step; the last step of an epoch may have fewer."""
    epochs: int = 1
    """Passes over the conversations."""
    warmup_share: float = 0.1
    """Share of all steps in which the learning rate rises linearly."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this global 2-norm."""
    tokens_per_pass: int = 16_384
    """Tokens, padding included, that one forward and backward pass may hold."""
    seed: int = 0
    """Order of the conversations."""


def instruction_tune(
    model: PreTrainedModel,
    conversations: Sequence[TokenizedConversation],
    config: SFTConfig,
    progress: Callable[[float, float], None] | None = None,
) -> list[float]:
    """The loss of each step (nats per completion token), having tuned `model` in place.

    A step's loss is the mean over all its completion tokens, however many passes it takes.
    `progress` hears, after each step, the share of steps done and the loss.
    """
    steps_per_epoch = -(-len(conversations) // config.conversations_per_step)
    total_steps = config.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    random = Random(config.seed)
    losses: list[float] = []
    model.train()
    for _ in range(config.epochs):
        for batch in _batches_of_like_length(conversations, config.conversations_per_step, random):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(len(losses), total_steps, config.learning_rate, config.warmup_share)
            completion_tokens = sum(sum(conversation.is_completion[1:]) for conversation in batch)
            loss = 0.0
            for part in _passes(batch, config.tokens_per_pass):
                part_loss = completion_nats(model, part) / completion_tokens
                part_loss.backward()
                loss += part_loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss)
            if progress:
                progress(len(losses) / total_steps, loss)
    model.eval()
    return losses


def completion_nats(model: PreTrainedModel, batch: Sequence[TokenizedConversation]) -> Tensor:
    """Negative log-likelihood of all completion tokens of a batch: one number, summed, in nats.

    Padding stands on the right, behind everything a causal model looks at, so no attention mask is needed.
    Logits are computed at completion tokens only: the vocabulary is the widest layer of a small model.
    """
    longest = max(len(conversation.token_ids) for conversation in batch)
    token_ids = torch.zeros((len(batch), longest), dtype=torch.long)
    is_completion = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, conversation in enumerate(batch):
        token_ids[row, : len(conversation.token_ids)] = torch.tensor(conversation.token_ids)
        is_completion[row, : len(conversation.token_ids)] = torch.tensor(conversation.is_completion)
    token_ids, is_completion = token_ids.to(model.device), is_completion.to(model.device)
    hidden = model.get_decoder()(input_ids=token_ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(hidden[is_completion[:, 1:]])
    return F.cross_entropy(logits.float(), token_ids[:, 1:][is_completion[:, 1:]], reduction="sum")


def _batches_of_like_length(
    conversations: Sequence[TokenizedConversation], conversations_per_step: int, random: Random
) -> Iterator[list[TokenizedConversation]]:
    """All conversations once, in random order, in batches whose members are of similar length."""
    order = iter(random.sample(range(len(conversations)), len(conversations)))
    while window := list(islice(order, STEPS_PER_SORTED_WINDOW * conversations_per_step)):
        window.sort(key=lambda index: len(conversations[index].token_ids))
        batches = [
            window[start : start + conversations_per_step] for start in range(0, len(window), conversations_per_step)
        ]
        random.shuffle(batches)
        for batch in batches:
            yield [conversations[index] for index in batch]


def _passes(batch: Sequence[TokenizedConversation], tokens_per_pass: int) -> Iterator[Sequence[TokenizedConversation]]:
    """The batch, cut into parts of at most `tokens_per_pass` padded tokens (at least one conversation each)."""
    longest = max(len(conversation.token_ids) for conversation in batch)
    conversations_per_pass = max(1, tokens_per_pass // longest)
    for start in range(0, len(batch), conversations_per_pass):
        yield batch[start : start + conversations_per_pass]
