"""Whether a chat template prints the tools, their calls and their answers: what it leaves out would be lost unseen."""

from collections.abc import Iterator, Sequence

from mmpo_train.chat.messages import Message, ToolMessage, Turn
from mmpo_train.data.rendering import Tokenizer, Tools, Unusable, render


def check_tools(tokenizer: Tokenizer, turns: Sequence[Turn], tools: Tools) -> None:
    """Raises Unusable where the template prints the same without the tools, or with other calls or answers."""
    if not tools and not any(isinstance(turn, ToolMessage) or turn.role == "tool" for turn in turns):
        return
    text = render(tokenizer, turns, add_generation_prompt=False, tools=tools)
    for what, changed, left in _without_each(turns, tools):
        try:
            same = render(tokenizer, changed, add_generation_prompt=False, tools=left) == text
        except Unusable:  # it would miss them
            continue
        if same:
            raise Unusable(f"the chat template leaves out {what}")


def _without_each(turns: Sequence[Turn], tools: Tools) -> Iterator[tuple[str, Sequence[Turn], Tools]]:
    if tools:
        yield "the tools", turns, None
    for place, turn in enumerate(turns):
        others = turns[:place], turns[place + 1 :]
        if turn.role == "tool":
            yield "what a tool answers", [*others[0], turn._replace(content=f"not {turn.content}"), *others[1]], tools
        elif isinstance(turn, ToolMessage):
            yield "calls of tools", [*others[0], Message(turn.role, turn.content), *others[1]], tools
