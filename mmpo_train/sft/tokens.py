"""Conversations as token ids with marks of the learned ones, made in a stream and mapped into memory by every worker.

The whole conversation is rendered and tokenised once; the position of a turn in the text tells which tokens are its
own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpo_train.chat.messages import for_template
from mmpo_train.config import digest_of
from mmpo_train.data.rendering import PROBE, Tokenizer, Unusable, ending_of, holds_special_text, render_all
from mmpo_train.data.tokens import TokenTable
from mmpo_train.data.tools import check_tools
from mmpo_train.errors import InputError

if TYPE_CHECKING:
    from mmpo_train.model.logps import Pass
    from mmpo_train.sft.data import Chat

_CHATS_PER_CALL = 512  # enough for the tokenizer's threads


@dataclass
class ChatCount:
    """Numbers of conversations and tokens that tokenisation kept, cut and dropped in one split."""

    kept: int = 0
    cut: int = 0
    tokens: int = 0
    learned: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> "source row n"."""

    def lines(self, split: str) -> list[str]:
        """The count in words."""
        text = [
            f"{split}: {self.kept:,} conversations, {self.tokens:,} tokens, {self.learned:,} of them learned; "
            f"{self.cut:,} cut on the right"
        ]
        for reason, rows in self.dropped.items():
            text.append(f"{split}: {len(rows):,} dropped, {reason} ({', '.join(rows[:5])}{', …' * (len(rows) > 5)})")
        return text


@dataclass(frozen=True)
class ChatTable:
    """N conversations, one after the other."""

    token_ids: np.ndarray
    """(T,) int32."""
    learned: np.ndarray
    """(T,) bool: whether the model learns to write the token."""
    ends: np.ndarray
    """(N,) int64: the end of each conversation."""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each conversation, (N,)."""
        return np.diff(self.ends, prepend=0)

    def take(self, rows: Sequence[int] | np.ndarray) -> tuple[TokenTable, list[np.ndarray]]:
        """Some conversations, each as a prompt up to its first learned token with the rest as its completion; and which
        tokens of that rest are learned."""
        prompts, completions, marks = [], [], []
        for row in rows:
            place = slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))
            ids, learned = np.asarray(self.token_ids[place]), np.asarray(self.learned[place])
            first = int(np.argmax(learned))
            prompts.append(ids[:first])
            completions.append((ids[first:],))
            marks.append(learned[first:])
        return TokenTable(tuple(prompts), tuple(completions)), marks


def learned_only(one: Pass, marks: Sequence[np.ndarray]) -> Pass:
    """A pass over conversations that scores only the learned tokens; `marks` are from `take`, in the pass's order."""
    import torch

    kept = torch.from_numpy(np.flatnonzero(np.concatenate(marks)))
    return one._replace(places=one.places[kept], targets=one.targets[kept], completions=one.completions[kept])


def encode_chats(
    chats: Iterable[Chat], tokenizer: Tokenizer, max_tokens: int, turns: str, count: ChatCount
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids (int32) and marks of the usable conversations, in order; what was cut and dropped goes to `count`.

    The assistant's `turns` (all, or the last) are learned, each with its closing token; if the template has none, EOS
    closes the last turn. Raises InputError if the tokenizer does not report the positions of its tokens.
    """
    if not tokenizer.is_fast:
        raise InputError("this tokenizer reports no positions; save the model with a fast tokenizer (tokenizer.json)")
    waiting = iter(chats)
    while some := list(islice(waiting, _CHATS_PER_CALL)):
        rendered: list[tuple[Chat, str, list[tuple[int, int]], str]] = []
        for chat in some:
            try:
                rendered.append((chat, *_rendered(tokenizer, chat, turns)))
            except Unusable as reason:
                _drop(count, chat, str(reason))
        if not rendered:
            continue
        texts = [text for _, text, *_ in rendered]
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
        for (chat, _, spans, closing), ids, offsets in zip(
            rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            kept = _marked(tokenizer, ids, np.array(offsets).reshape(-1, 2), spans, closing)
            count.cut += len(kept[0]) > max_tokens
            token_ids, learned = kept[0][:max_tokens], kept[1][:max_tokens]
            if not learned.any():
                _drop(count, chat, f"nothing to learn within {max_tokens} tokens")
                continue
            count.kept += 1
            count.tokens += len(token_ids)
            count.learned += int(learned.sum())
            yield token_ids, learned


def _rendered(tokenizer: Tokenizer, chat: Chat, which: str) -> tuple[str, list[tuple[int, int]], str]:
    """The conversation as text, the positions of its learned turns, and their closing text. Raises Unusable."""
    turns, tools = chat.turns, for_template(chat.tools)
    check_tools(tokenizer, turns, tools)
    places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    [probed] = render_all(tokenizer, [([*turns[: places[-1]], PROBE], False)], tools)
    ending, said = ending_of(tokenizer, probed), list(turns)
    for place in places:
        said[place] = turns[place]._replace(content=ending.without_own(turns[place].content))
    places = places[-1:] if which == "last" else places
    parts = render_all(
        tokenizer, [one for place in places for one in ((said[:place], True), (said[: place + 1], False))], tools
    )
    text, spans = parts[-1], []  # a conversation ends with the assistant
    if holds_special_text(text):
        raise Unusable("a special token is spelled in the text")
    for place, before, until in zip(places, parts[::2], parts[1::2], strict=True):
        if not text.startswith(until) or not until.startswith(before):
            raise Unusable("the chat template renders a turn differently once others follow")
        ending.check(until[len(before) :], said[place].content)
        spans.append((len(before), len(until)))
    return text, spans, ending.token


def _marked(
    tokenizer: Any, ids: list[int], offsets: np.ndarray, spans: list[tuple[int, int]], closing: str
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and which of them are learned: those of each span without what the template prints after its closing
    token. A token that begins before the span, in the prompt's text, is not learned."""
    token_ids, learned = np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=bool)
    end_ids = tokenizer.encode(closing, add_special_tokens=False)
    for start, end in spans:
        own = np.flatnonzero((offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0]))
        if closing:
            own = own[: 1 + np.flatnonzero(token_ids[own] == end_ids[0])[-1]]
        learned[own] = True
    learned[:1] = False  # nothing predicts the first token
    if not closing:
        token_ids, learned = np.append(token_ids, np.int32(tokenizer.eos_token_id)), np.append(learned, True)
    return token_ids, learned


def _drop(count: ChatCount, chat: Chat, reason: str) -> None:
    count.dropped.setdefault(reason, []).append(f"{chat.source} row {chat.row}")


def write_split(folder: Path, split: str, encoded: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write `<split>-ids.bin` (int32), `<split>-learned.bin` (a byte per token) and `<split>-ends.npy`, as a stream."""
    ends, end = [], 0
    with open(folder / f"{split}-ids.bin", "wb") as ids, open(folder / f"{split}-learned.bin", "wb") as marks:
        for token_ids, learned in encoded:
            token_ids.astype("<i4").tofile(ids)
            learned.tofile(marks)
            end += len(token_ids)
            ends.append(end)
    np.save(folder / f"{split}-ends.npy", np.array(ends, dtype=np.int64))


def read_chats(folder: Path, split: str) -> ChatTable:
    """One split, mapped into memory. The caller has verified the folder."""
    return ChatTable(
        np.memmap(folder / f"{split}-ids.bin", dtype="<i4", mode="r"),
        np.memmap(folder / f"{split}-learned.bin", dtype=bool, mode="r"),
        np.load(folder / f"{split}-ends.npy"),
    )


def chats_key(data_fingerprint: str, model_fingerprint: str, max_tokens: int, turns: str) -> str:
    """Name of the folder for these conversations under this tokenizer, template and cut."""
    return digest_of(["conversations-1", data_fingerprint, model_fingerprint, max_tokens, turns])
