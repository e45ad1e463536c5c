"""Chat rendering and tokenisation: a conversation as prompt tokens and completion tokens.

Prompt and completion come from ONE rendering of the whole conversation, split where the prompt ends. Rendering the
assistant's turn by itself would put a second system prompt, a BOS and even a date inside the scored text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmpo_train.data.preferences import Message, PreferenceExample

# Llama 3.x templates print today's date unless told one: the same conversation must give the same tokens tomorrow.
_TEMPLATE_ARGUMENTS: dict[str, Any] = {"date_string": "26 Jul 2024"}


class Unusable(Exception):
    """This example cannot be tokenised for training; the message is the reason, as an audit prints it."""


@dataclass(frozen=True)
class EncodedExample:
    """One prompt and its K completions as token ids (int32), after the cut."""

    prompt: np.ndarray
    completions: tuple[np.ndarray, ...]
    """Chosen first; each ends with its end-of-turn token unless it was cut."""
    prompt_cut: int
    """Tokens removed from the prompt's left."""
    completion_cuts: tuple[int, ...]
    """Tokens removed from each completion's right."""
    repeated: int = 0
    """Completions left out since after the cut they are the same tokens as one before."""
    question: str = ""
    """The prompt as text for a judge: the user's words, or a line `role: text` for each of several turns."""


def encode(
    example: PreferenceExample,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    truncation: str = "separate",
    completion_rendering: str = "whole",
) -> EncodedExample:
    """Token ids of the example, prompts cut from the left and completions from the right.

    `truncation` and `completion_rendering` are TrialConfig's; an assistant's turn that is rendered alone brings its own
    header, so that the prompt then ends without one. A completion that after the cut is the same tokens as one before
    is left out. Raises Unusable where the template refuses the conversation, where it renders the prompt differently
    once a completion follows, and where all rejected completions are the same tokens as the chosen one.
    """
    alone = completion_rendering == "alone"
    prompt_text = render(tokenizer, example.prompt, add_generation_prompt=not alone)
    prompt_ids = tokenizer.encode(prompt_text, add_special_tokens=False)
    kept = prompt_ids[-max_prompt_tokens:]
    longest = max_completion_tokens
    if truncation == "total":
        longest += max_prompt_tokens - len(kept)
    distinct: dict[bytes, np.ndarray] = {}
    cuts = []
    for completion in example.completions:
        if alone:
            ids = _turn_ids(tokenizer, completion)
        else:
            ids = _completion_ids(tokenizer, example.prompt, completion, prompt_text, prompt_ids)
        kept_ids = np.asarray(ids[:longest], dtype=np.int32)
        if kept_ids.tobytes() not in distinct:
            distinct[kept_ids.tobytes()] = kept_ids
            cuts.append(max(0, len(ids) - longest))
    if len(distinct) < 2:
        raise Unusable(f"chosen and rejected are the same within {longest} tokens")
    return EncodedExample(
        prompt=np.asarray(kept, dtype=np.int32),
        completions=tuple(distinct.values()),
        prompt_cut=len(prompt_ids) - len(kept),
        completion_cuts=tuple(cuts),
        repeated=len(example.completions) - len(distinct),
        question=as_question(example.prompt),
    )


def as_question(prompt: Sequence[Message]) -> str:
    """The text of a prompt of one turn, and one line `role: text` for each turn of a longer one."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """The conversation as the model's text. Raises Unusable where the chat template refuses it."""
    from jinja2 import TemplateError

    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, **_TEMPLATE_ARGUMENTS
        )
    except TemplateError as error:
        raise Unusable(f"the chat template refuses the conversation: {error}") from error
    assert isinstance(text, str)
    return text


def _completion_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    completion: str,
    prompt_text: str,
    prompt_ids: list[int],
) -> list[int]:
    """Ids of the completion inside the whole conversation, up to and including one end-of-turn token."""
    from mmpo_train.data.preferences import Message

    whole_text = render(tokenizer, [*prompt, Message("assistant", completion)], add_generation_prompt=False)
    if not whole_text.startswith(prompt_text):
        raise Unusable("the chat template renders the prompt differently once a completion follows")
    whole_ids = tokenizer.encode(whole_text, add_special_tokens=False)
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        ids = whole_ids[len(prompt_ids) :]
    else:
        # A token spans the boundary. The prompt must be tokenised as generation would see it, and alike for all
        # completions; so the completion is tokenised from where the prompt's text ends.
        ids = tokenizer.encode(whole_text[len(prompt_text) :], add_special_tokens=False)
    return _with_one_end(tokenizer, ids)


def _turn_ids(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Ids of a conversation of this one turn, up to and including one end-of-turn token."""
    from mmpo_train.data.preferences import Message

    text = render(tokenizer, [Message("assistant", completion)], add_generation_prompt=False)
    return _with_one_end(tokenizer, tokenizer.encode(text, add_special_tokens=False))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of all special tokens, those without a role too: Llama 3's `<|eot_id|>` where EOS is `<|end_of_text|>`."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _with_one_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The ids up to the turn's closing special token; EOS is appended where the template closes with none."""
    specials = special_ids(tokenizer)
    end = len(ids)
    while end and ids[end - 1] not in specials and not str(tokenizer.decode([ids[end - 1]])).strip():
        end -= 1  # what a template prints after the closing token, such as a line break
    if end and ids[end - 1] in specials:
        while end > 1 and ids[end - 2] == ids[end - 1]:
            end -= 1  # the data brought an EOS of its own
        return ids[:end]
    assert tokenizer.eos_token_id is not None  # checked when the tokenizer was loaded
    return [*ids, tokenizer.eos_token_id]
