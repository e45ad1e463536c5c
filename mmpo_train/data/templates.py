"""Chat rendering and tokenisation: a conversation as prompt tokens and completion tokens.

Prompt and completion come from ONE rendering of the whole conversation, split where the prompt ends. Rendering the
assistant's turn by itself would put a second system prompt, a BOS and even a date inside the scored text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmpo_train.chat.messages import Completion, Turn, as_turn, for_template
from mmpo_train.config import TrialConfig
from mmpo_train.data.rendering import PROBE, Ending, Tokenizer, Tools, Unusable, ending_of, ids_of, render_all
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.tools import check_tools


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
    """Completions left out because after the cut they equal an earlier one."""
    question: str = ""
    """The prompt as text for a judge: the user's text, or for several turns one line `role: text` each."""


class Encoding(NamedTuple):
    """How a conversation becomes tokens: the fields of TrialConfig with these names."""

    max_prompt_tokens: int
    max_completion_tokens: int
    noise_candidate: str = "none"
    truncation: str = "separate"
    completion_rendering: str = "whole"

    @classmethod
    def of(cls, config: TrialConfig) -> Encoding:
        """The trial's own."""
        return cls(*(getattr(config, name) for name in cls._fields))


def encode(example: PreferenceExample, tokenizer: Tokenizer, how: Encoding) -> EncodedExample:
    """Token ids of the example, prompts cut from the left and completions from the right.

    A prompt that is cut keeps its BOS, except in `total`, as the paper's author did. An assistant's turn that is
    rendered alone brings its own header, so that the prompt then ends without one. A completion that equals an earlier
    one after the cut is left out. Noise is added by `tokens.tokenise`. Raises Unusable if the template refuses the
    conversation, changes its text or leaves out tools, renders the prompt differently when a completion follows, or
    prints more than one closing token after the answer, and if all rejected completions equal the chosen one.
    """
    alone, twice = how.completion_rendering != "whole", how.completion_rendering == "alone_with_eos"
    before: tuple[Turn, ...] = () if alone else example.prompt
    tools = for_template(example.tools)
    for completion in example.completions:
        check_tools(tokenizer, (*example.prompt, as_turn(completion)), tools)
    prompt_text, probed = render_all(tokenizer, [(example.prompt, not alone), ([*before, PROBE], False)], tools)
    prompt_ids = ids_of(tokenizer, prompt_text)
    kept, total = prompt_ids[-how.max_prompt_tokens :], how.truncation == "total"
    if not total and len(kept) < len(prompt_ids) and prompt_ids[0] == tokenizer.bos_token_id:
        kept[0] = prompt_ids[0]
    longest = how.max_completion_tokens + (how.max_prompt_tokens - len(kept) if total else 0)
    ending = ending_of(tokenizer, probed)
    distinct: dict[bytes, np.ndarray] = {}
    cuts = []
    behind = "" if alone else prompt_text
    for ids in _completion_ids(tokenizer, before, behind, example.completions, ending, tools, twice):
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


def as_question(prompt: Sequence[Turn]) -> str:
    """The text of a prompt of one turn, and one line `role: text` for each turn of a longer one."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def _completion_ids(
    tokenizer: Tokenizer,
    before: Sequence[Turn],
    prompt_text: str,
    completions: Sequence[Completion],
    ending: Ending,
    tools: Tools,
    ended_twice: bool,
) -> list[list[int]]:
    """Ids of each completion inside its whole conversation, up to and including one closing token; EOS is appended
    where the template closes with none, or after all that it prints if they are to be `ended_twice`. `before` are the
    turns in front of it, and `prompt_text` what they look like.
    """
    answers = [turn._replace(content=ending.without_own(turn.content)) for turn in map(as_turn, completions)]
    wholes = render_all(tokenizer, [((*before, answer), False) for answer in answers], tools)
    prompt_ids, found = ids_of(tokenizer, prompt_text), []
    for whole, answer in zip(wholes, answers, strict=True):
        if not whole.startswith(prompt_text):
            raise Unusable("the chat template renders the prompt differently once a completion follows")
        own = whole[len(prompt_text) :]
        ending.check(own, answer.content)
        ids = ids_of(tokenizer, whole)
        if ids[: len(prompt_ids)] == prompt_ids:
            ids = ids[len(prompt_ids) :]
        else:
            # A token spans the boundary. The prompt must be tokenised as generation would see it, and alike for all
            # completions; so the completion is tokenised from where the prompt's text ends.
            ids = ids_of(tokenizer, own)
        if ending.token and not ended_twice:
            [end] = tokenizer.encode(ending.token, add_special_tokens=False)
            ids = ids[: len(ids) - ids[::-1].index(end)]  # behind it a template may print a line break
        else:
            assert tokenizer.eos_token_id is not None  # checked when the tokenizer was loaded
            ids = [*ids, tokenizer.eos_token_id]
        found.append(ids)
    return found
