"""A conversation as a model's text and as token ids. All programs render chat templates here.

A special token in the text of a message is encoded as ordinary text. The date is always the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmpo_train.chat.messages import Turn
from mmpo_train.data.template_limits import TemplateProcess
from mmpo_train.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any  # importing transformers takes seconds

DATE = "2024-07-26"
"""Date of every conversation, since some templates print it; Llama 3.2's own default."""
_TEMPLATES = TemplateProcess(DATE, seconds=5, megabytes=1024)
_QUESTION = {"role": "user", "content": "Is it so?"}
PROBE: dict[str, Any] = {"role": "assistant", "content": "answer-b31f07"}
"""A placeholder for an answer, to see what a template prints after it."""
_MARKS = re.compile("[\U000f0000\U000f0001]")
"""Characters with which transformers marks special tokens in the text of messages."""

Messages = Sequence[Turn | Mapping[str, Any]]
Tools = Sequence[dict[str, Any]] | None


class Unusable(Exception):
    """This example cannot be tokenised for training; the message is the reason, as an audit prints it."""


def render(
    tokenizer: Tokenizer,
    messages: Messages,
    *,
    add_generation_prompt: bool,
    tools: Tools = None,
    continue_last: bool = False,
) -> str:
    """The conversation as the model's text, for `ids_of`. Raises Unusable if the chat template refuses it, or leaves
    out what the user or the system says."""
    one = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_last}
    return _render(tokenizer, [{"messages": messages, **one}], tools)[0]


def render_all(tokenizer: Tokenizer, conversations: Iterable[tuple[Messages, bool]], tools: Tools = None) -> list[str]:
    """The texts of conversations, as `render` returns them; the second of each pair adds the generation prompt."""
    wanted = [{"messages": messages, "add_generation_prompt": asked} for messages, asked in conversations]
    return _render(tokenizer, wanted, tools)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a rendered text. BOS is not added, since the template prints it."""
    if _MARKS.search(text):
        from transformers.utils.chat_template_utils import encode_marked_chat

        try:
            return list(encode_marked_chat(tokenizer, text))
        except ValueError as error:
            raise Unusable(f"the text spells a special token ({error})") from error
    return list(tokenizer.encode(text, add_special_tokens=False))


def prompt_ids(tokenizer: Tokenizer, messages: Messages, tools: Tools = None) -> list[int]:
    """Token ids of a conversation with the generation prompt. Raises Unusable as `render` does."""
    return ids_of(tokenizer, render(tokenizer, messages, add_generation_prompt=True, tools=tools))


def without_marks(text: str) -> str:
    """A rendered text without marks: special tokens in messages look like the template's own."""
    return _MARKS.sub("", text)


def holds_special_text(text: str) -> bool:
    """Whether a rendered text has special tokens that must stay ordinary text."""
    return bool(_MARKS.search(text))


def squeezed(text: str) -> str:
    """The text without white space, which templates trim and add."""
    return "".join(_MARKS.sub("", text).split())


class Ending(NamedTuple):
    """How a template ends the answers to a prompt."""

    text: str
    """All text after the answer."""
    token: str
    """The closing token in it; empty if it is white space only."""
    others: frozenset[str]
    """Closing tokens that answers in data may already have."""

    def without_own(self, answer: str) -> str:
        """The answer without closing tokens of its own. Raises Unusable if nothing else is left."""
        text = answer
        while end := next((one for one in self.others if text.rstrip().endswith(one)), ""):
            text = text.rstrip().removesuffix(end)
        if not text.strip() and text != answer:
            raise Unusable("the answer is nothing but a closing token")
        return text

    def check(self, rendered: str, answer: str) -> None:
        """Raises Unusable if `rendered`, the text after the prompt, is not the answer followed by this ending."""
        whole = rendered.endswith(self.text)
        if not whole or squeezed(answer) not in squeezed(rendered[: len(rendered) - len(self.text)]):
            raise Unusable("the chat template leaves out or changes what the assistant says")


def ending_of(tokenizer: Tokenizer, probed: str) -> Ending:
    """The ending, from a rendered conversation that ends with PROBE. Raises Unusable if more than one closing token
    follows."""
    text = after_answer(probed)
    token = text.strip()
    if token and len(tokenizer.encode(token, add_special_tokens=False)) != 1:
        raise Unusable(f"the chat template prints {token!r} after the answer, not one closing token")
    return Ending(text, token, frozenset({token, str(tokenizer.eos_token)} - {""}))


def after_answer(probed: str) -> str:
    """The text that the template prints after an answer, from a rendered conversation that ends with PROBE."""
    _, found, rest = probed.rpartition(str(PROBE["content"]))
    if not found:
        raise Unusable("the chat template leaves out or changes what the assistant says")
    return rest


def end_ids_of(tokenizer: Tokenizer) -> list[int]:
    """The tokenizer's EOS, and the token that closes completions in training (Llama 3 has another one)."""
    rest = after_answer(render(tokenizer, [_QUESTION, PROBE], add_generation_prompt=False))
    taught = [index for index in ids_of(tokenizer, rest) if index in special_ids(tokenizer)]
    return sorted({*taught[:1], tokenizer.eos_token_id})


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """Ids of all special tokens, including those without a role, such as Llama 3's `<|eot_id|>`."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def check_template(tokenizer: Tokenizer) -> None:
    """Raises InputError where the chat template cannot render a question and its answer within its limits, begins with
    BOS twice, or does not let the answer begin where it asks for one."""
    try:
        asked, answered = render_all(tokenizer, [([_QUESTION], True), ([_QUESTION, PROBE], False)])
        problem = _problem_of(tokenizer, asked, answered.partition(str(PROBE["content"]))[0])
    except Unusable as reason:
        problem = str(reason)
    if problem:
        raise InputError(f"{problem}; mend the chat template of {tokenizer.name_or_path}")


def _problem_of(tokenizer: Tokenizer, asked: str, answered: str) -> str:
    """What is wrong with the text in which an answer is asked for, or in which one stands; empty where nothing is."""
    bos = tokenizer.bos_token_id
    if bos is not None and ids_of(tokenizer, asked)[:2] == [bos, bos]:
        return f"the chat template begins with {tokenizer.bos_token} twice"
    header = answered.removeprefix(asked)
    if answered.startswith(asked) and special_ids(tokenizer) & set(ids_of(tokenizer, header)):
        return f"the chat template prints {header!r} before an answer, but not where it asks for one"
    return ""


def facts(folder: Path) -> dict[str, str]:
    """Facts on which results depend besides the model's weights: SHA-256 of the template, date of conversations."""
    own, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    text = own.read_text() if own.is_file() else ""
    if not text and settings.is_file():
        template = json.loads(settings.read_text()).get("chat_template")
        text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return {"chat_template_sha256": hashlib.sha256(text.encode()).hexdigest(), "chat_date": DATE}


def _render(tokenizer: Tokenizer, wanted: list[dict[str, Any]], tools: Tools) -> list[str]:
    marked = _marker(tokenizer)
    try:
        template = tokenizer.get_chat_template(None, list(tools) if tools else None)
    except ValueError as error:  # there are several, and none is the default
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} cannot be chosen: {first_line(error)}"
        ) from error
    turns = [[_as_dict(message) for message in one["messages"]] for one in wanted]
    request = {
        "template": template,
        "wanted": [{**one, "messages": marked(some)} for one, some in zip(wanted, turns, strict=True)],
        "values": {
            **tokenizer.special_tokens_map,
            "date_string": datetime.fromisoformat(DATE).strftime("%d %b %Y"),
            "tools": marked(list(tools)) if tools else None,
        },
    }
    texts = _run(request, tokenizer.name_or_path)
    for text, some in zip(texts, turns, strict=True):
        _check_that_all_is_said(text, some)
    return texts


def _as_dict(message: Turn | Mapping[str, Any]) -> dict[str, Any]:
    values = message if isinstance(message, Mapping) else message.for_template()
    return {name: value for name, value in values.items() if value is not None}


def _check_that_all_is_said(text: str, turns: Sequence[Mapping[str, Any]]) -> None:
    said = squeezed(text)
    for turn in turns:
        text_of_turn = turn.get("content")
        if turn["role"] in ("system", "user") and isinstance(text_of_turn, str) and squeezed(text_of_turn) not in said:
            raise Unusable(f"the chat template leaves out or changes what the {turn['role']} says")


@lru_cache(maxsize=8)
def _marker(tokenizer: Tokenizer) -> Callable[[Any], Any]:
    """A function that marks the special tokens in all texts of a value, so that they stay ordinary text."""
    from transformers.utils.chat_template_utils import mark_control_tokens

    special = sorted((str(token) for token in tokenizer.added_tokens_decoder.values() if token.special), key=len)
    pattern = re.compile("|".join(map(re.escape, reversed(special))) or "(?!)")
    return lambda value: mark_control_tokens(value, pattern)


def _run(request: dict[str, Any], model: str) -> list[str]:
    """The texts of a request. Raises Unusable where the template refuses, InputError where it takes too much."""
    reply = _TEMPLATES.ask(request)
    if "texts" in reply:
        return list(reply["texts"])
    if "refused" in reply:
        raise Unusable(f"the chat template refuses the conversation: {reply['refused']}")
    most = f"{_TEMPLATES.megabytes} MB of memory" if "out_of_memory" in reply else f"{_TEMPLATES.seconds} s"
    raise InputError(
        f"the chat template of {model} was stopped: it took more than {most} for one conversation; mend it, or take "
        "that of another model"
    )
