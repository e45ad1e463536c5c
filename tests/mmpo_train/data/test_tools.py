"""Tools, calls and their answers as the template prints them, and what is refused where it does not."""

import json

import numpy as np
import pytest

from mmpo_train.chat.messages import Message, ToolMessage
from mmpo_train.data.rows import PreferenceExample, parse_row
from mmpo_train.data.templates import Encoding
from mmpo_train.data.tokens import tokenise
from mmpo_train.sft.data import Chat
from mmpo_train.sft.tokens import ChatCount, encode_chats
from tests.support.tokenizers import CHATS, TOOL_CHATML, bpe_tokenizer, byte_tokenizer

TOOLS = json.dumps([{"type": "function", "function": {"name": "weather"}}])
CALL = ToolMessage(
    "assistant",
    "Let me look.",
    json.dumps({"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}]}),
)
ASKED = Message("user", "Rain?")
REASONS = {
    "tools": "the chat template leaves out the tools",
    "calls": "the chat template leaves out calls of tools",
    "answers": "the chat template leaves out what a tool answers",
}


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer([], ["<|im_start|>", "<|im_end|>"], TOOL_CHATML, eos_token="<|im_end|>")


def example(prompt, *completions, tools=TOOLS, row=1):
    return PreferenceExample(prompt, completions, "pairs.jsonl", row, tools)


def encoded(tokenizer, *examples):
    rows, count = tokenise(examples, tokenizer, Encoding(1000, 1000))
    return rows, count.dropped


def test_tools_calls_and_answers_stand_in_prompt_and_completion(tokenizer):
    prompt = (ASKED, CALL, ToolMessage("tool", "dry", '{"name": "weather"}'), Message("user", "And in Rome?"))
    [row], dropped = encoded(tokenizer, example(prompt, CALL, "I cannot know."))
    assert not dropped
    called = 'Let me look.<call>{"name": "weather", "arguments": {"city": "Ulm"}}</call><|im_end|>'
    assert tokenizer.decode(row.prompt) == (
        '<|im_start|>system\n[{"type": "function", "function": {"name": "weather"}}]<|im_end|>\n'
        f"<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n{called}\n"
        "<|im_start|>tool\ndry<|im_end|>\n<|im_start|>user\nAnd in Rome?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [tokenizer.decode(ids) for ids in row.completions] == [called, "I cannot know.<|im_end|>"]


def test_a_call_with_nothing_said_beside_it_is_a_completion(tokenizer):
    row = {"prompt": "Rain?", "tools": TOOLS, "rejected": "No."}
    row["chosen"] = [{"role": "assistant", "content": None, "tool_calls": [{"name": "weather", "arguments": "{}"}]}]
    parsed = parse_row(row)
    [found], dropped = encoded(tokenizer, example(parsed.prompt, *parsed.completions, tools=parsed.tools))
    assert not dropped
    assert tokenizer.decode(found.completions[0]) == '<call>{"name": "weather", "arguments": {}}</call><|im_end|>'


def test_conversations_that_differ_in_their_calls_alone_are_told_apart(tokenizer):
    other = CALL._replace(more=CALL.more.replace("Ulm", "Rom"))
    [row], _ = encoded(tokenizer, example((ASKED,), CALL, other))
    assert not np.array_equal(*row.completions)


@pytest.mark.parametrize("name", [name for name in CHATS if name != "mistral"])
@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("tools", example((ASKED,), "Yes.", "No.")),
        ("calls", example((ASKED,), CALL, "No.", tools="")),
        ("calls", example((ASKED, CALL, ASKED), "Yes.", "No.", tools="")),
    ],
    ids=["tools", "chosen", "prompt"],
)
def test_a_template_that_leaves_them_out_drops_the_row_by_name(name, what, asked):
    plain = example((ASKED,), "Yes.", "No.", tools="", row=2)
    rows, dropped = encoded(byte_tokenizer(name), asked, plain)
    assert len(rows) == 1 and dropped == {REASONS[what]: ["pairs.jsonl row 1"]}


def test_a_template_that_leaves_out_a_tools_answer_drops_the_row():
    template = CHATS["chatml"][0].replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    tokenizer = bpe_tokenizer([], ["<|im_start|>", "<|im_end|>"], template, eos_token="<|im_end|>")
    asked = example((ASKED, Message("assistant", "Wait."), Message("tool", "dry")), "Yes.", "No.", tools="")
    assert encoded(tokenizer, asked) == ([], {REASONS["answers"]: ["pairs.jsonl row 1"]})


def test_a_tools_answer_is_printed_where_the_template_prints_every_role():
    asked = example((ASKED, Message("assistant", "Wait."), Message("tool", "dry")), "Yes.", "No.", tools="")
    [row], _ = encoded(byte_tokenizer("chatml"), asked)
    assert "<|im_start|>tool\ndry<|im_end|>\n" in byte_tokenizer("chatml").decode(row.prompt)


def test_instruction_tuning_renders_and_refuses_the_same(tokenizer):
    chats = [Chat((ASKED, CALL), "chats.jsonl", 1, TOOLS), Chat((ASKED, Message("assistant", "No.")), "chats.jsonl", 2)]
    count = ChatCount()
    [(ids, learned), _] = encode_chats(chats, tokenizer, 1000, "all", count)
    assert tokenizer.decode(ids[learned]).startswith('Let me look.<call>{"name": "weather"')
    assert not count.dropped
    [_] = encode_chats(chats, byte_tokenizer("chatml"), 1000, "all", count)
    assert count.dropped == {REASONS["tools"]: ["chats.jsonl row 1"]}
