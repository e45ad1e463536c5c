"""Tokenised examples as text: what is scored, what was cut, and every special token."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from rich.text import Text

from mmpo_train.config import TrialConfig
from mmpo_train.data.rendering import Tokenizer, special_ids
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.templates import EncodedExample, Encoding
from mmpo_train.data.tokens import tokenise

LEGEND = (
    "prompt (context, not scored) · [green]chosen[/] and [red]rejected[/] (every coloured token is scored) · "
    "[reverse]special tokens[/] · [yellow]✂ what was cut[/]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters with which a text could command the terminal."""
_STYLES = {"chosen": "green", "rejected": "red"}


def first_examples(
    examples: Sequence[PreferenceExample], tokenizer: Tokenizer, config: TrialConfig, count: int
) -> list[tuple[PreferenceExample, EncodedExample]]:
    """The first `count` examples that can be tokenised, with their tokens as training sees them."""
    shown: list[tuple[PreferenceExample, EncodedExample]] = []
    for example in examples:
        if len(shown) == count:
            break
        encoded, _ = tokenise([example], tokenizer, Encoding.of(config))
        shown += [(example, one) for one in encoded]
    return shown


def as_text(example: PreferenceExample, tokens: EncodedExample, tokenizer: Tokenizer) -> Text:
    """One example as text for a terminal."""
    names = ["chosen"] + ["rejected"] * (len(tokens.completions) - 1)
    counts = ", ".join(f"{name} {len(ids)}" for name, ids in zip(names, tokens.completions, strict=True))
    text = Text(f"{example.source} row {example.row}", style="bold")
    text.append(f"  tokens: prompt {len(tokens.prompt)}, {counts}\n", style="not bold dim")
    text.append("prompt    ", style="bold dim")
    if tokens.prompt_cut:
        text.append(f"✂ {_tokens(tokens.prompt_cut)} cut here ", style="yellow not bold")
    _append(text, tokens.prompt, tokenizer, "not bold")
    for name, ids, cut in zip(names, tokens.completions, tokens.completion_cuts, strict=True):
        style = _STYLES[name]
        text.append(f"\n{name:<10}", style=f"bold {style}")
        _append(text, ids, tokenizer, f"{style} not bold")
        if cut:
            text.append(f" ✂ {_tokens(cut)} cut here, the closing token among them", style="yellow not bold")
    return text


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def as_columns(shown: Iterable[tuple[PreferenceExample, EncodedExample]], tokenizer: Tokenizer) -> dict[str, list]:
    """The examples as columns of a table with a row for each rejected completion."""
    columns: dict[str, list] = {}
    for example, tokens in shown:
        lengths, cuts = [len(ids) for ids in tokens.completions], tokens.completion_cuts
        for place in range(1, len(lengths)):
            row = {
                "source": f"{example.source} row {example.row}",
                "prompt": tokenizer.decode(tokens.prompt),
                "chosen": tokenizer.decode(tokens.completions[0]),
                "rejected": tokenizer.decode(tokens.completions[place]),
                "prompt_tokens": len(tokens.prompt),
                "prompt_tokens_cut": tokens.prompt_cut,
                "chosen_tokens": lengths[0],
                "chosen_tokens_cut": cuts[0],
                "rejected_tokens": lengths[place],
                "rejected_tokens_cut": cuts[place],
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    return columns


def _append(text: Text, ids: np.ndarray, tokenizer: Tokenizer, style: str) -> None:
    """Append the text of the ids. Runs of ordinary tokens are decoded together: one character may span several."""
    specials, run = special_ids(tokenizer), list[int]()
    for token in [*ids.tolist(), None]:
        if token is not None and token not in specials:
            run.append(token)
            continue
        text.append(_CONTROL.sub("\ufffd", str(tokenizer.decode(run))), style=style)
        run = []
        if token is not None:
            text.append(str(tokenizer.decode([token])), style=f"{style} reverse")
