"""Conversations as tokens: where the prompt ends, what is scored, and what is refused.

The tokenizers here know single bytes and special tokens only, so that a token is a character and texts are golden.
"""

import numpy as np
import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.data.rendering import Unusable, render, special_ids
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.templates import Encoding, as_question, encode
from tests.support.tokenizers import CHATS, bpe_tokenizer, byte_tokenizer

SINGLE = (Message("user", "2+2?"),)
SYSTEM = (Message("system", "Be brief."), Message("user", "2+2?"))
TURNS = (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "2+2?"))


GOLDEN = [
    ("chatml", SINGLE, "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"),
    (
        "chatml",
        SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "chatml",
        TURNS,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "smollm2",
        SINGLE,
        "<|im_start|>system\nYou are SmolLM.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "smollm2",
        SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (
        "llama3",
        SINGLE,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        "llama3",
        SYSTEM,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    (
        "llama3",
        TURNS,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    ("zephyr", SINGLE, "<|user|>\n2+2?</s>\n<|assistant|>\n"),
    ("zephyr", SYSTEM, "<|system|>\nBe brief.</s>\n<|user|>\n2+2?</s>\n<|assistant|>\n"),
    ("mistral", SINGLE, "<s>[INST] 2+2? [/INST]"),
    ("mistral", TURNS, "<s>[INST] Hi [/INST] Hello!</s>[INST] 2+2? [/INST]"),
    ("no end", SINGLE, "user: 2+2?\nassistant: "),
]


def encoded(tokenizer, prompt=SINGLE, completions=("4", "Five."), max_prompt_tokens=1000, max_completion_tokens=1000):
    example = PreferenceExample(tuple(prompt), tuple(completions), "pairs.json", 1)
    return encode(example, tokenizer, Encoding(max_prompt_tokens, max_completion_tokens))


def generation_prompt(tokenizer, prompt):
    """What `generate` would be given, by transformers' own tokenising rendering."""
    turns = [message._asdict() for message in prompt]
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False, date_string="26 Jul 2024"
    )


@pytest.mark.parametrize(("name", "prompt", "text"), GOLDEN)
def test_prompt_and_completions_are_the_golden_ones(name, prompt, text):
    tokenizer, closing = byte_tokenizer(name), CHATS[name][-1]
    one = encoded(tokenizer, prompt)
    space = " " if name == "mistral" else ""
    newline = "\n" if name == "no end" else ""
    assert tokenizer.decode(one.prompt) == text
    assert tokenizer.decode(one.completions[0]) == f"{space}4{newline}{closing}"
    assert tokenizer.decode(one.completions[1]) == f"{space}Five.{newline}{closing}"
    assert one.prompt.dtype == np.int32 and {ids.dtype for ids in one.completions} == {np.dtype(np.int32)}
    assert (one.prompt_cut, one.completion_cuts) == (0, (0, 0))


@pytest.mark.parametrize(("name", "prompt", "text"), GOLDEN)
def test_prompt_is_what_generation_would_see(name, prompt, text):
    tokenizer = byte_tokenizer(name)
    assert encoded(tokenizer, prompt).prompt.tolist() == generation_prompt(tokenizer, prompt)


@pytest.mark.parametrize(("name", "prompt", "text"), GOLDEN)
def test_completion_has_one_special_token_and_that_is_its_last(name, prompt, text):
    """No BOS, no header, no second end; after the end token nothing, though ChatML prints a line break there."""
    tokenizer = byte_tokenizer(name)
    closing = tokenizer.convert_tokens_to_ids(CHATS[name][-1])
    for ids in encoded(tokenizer, prompt).completions:
        assert [token for token in ids if token in special_ids(tokenizer)] == [closing]
        assert ids[-1] == closing
        assert "system" not in tokenizer.decode(ids) and "Today" not in tokenizer.decode(ids)


def test_a_turn_closed_by_a_token_other_than_eos_gets_no_eos_on_top():
    """Llama 3 base tokenizers: EOS is `<|end_of_text|>`; turns close with `<|eot_id|>`, which has no role."""
    tokenizer = byte_tokenizer("llama3")
    eot = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert eot not in tokenizer.all_special_ids
    ids = encoded(tokenizer).completions[0]
    assert ids[-1] == eot and tokenizer.eos_token_id not in ids


def test_a_template_without_an_end_token_gets_eos_appended():
    tokenizer = byte_tokenizer("no end")
    assert encoded(tokenizer).completions[0].tolist()[-1] == tokenizer.eos_token_id


def test_an_eos_that_the_data_brought_is_not_doubled():
    tokenizer = byte_tokenizer("chatml")
    one = encoded(tokenizer, completions=("4<|im_end|>", "Five."))
    assert tokenizer.decode(one.completions[0]) == "4<|im_end|>"


@pytest.mark.parametrize("completion", ["\n4", " 4", "\n\n 4\n", "  ", "4\n"])
def test_white_space_of_a_completion_is_scored_as_it_stands(completion):
    tokenizer = byte_tokenizer("chatml")
    one = encoded(tokenizer, completions=(completion, "Five."))
    assert tokenizer.decode(one.completions[0]) == f"{completion}<|im_end|>"


def test_the_date_is_the_same_tomorrow():
    """Llama 3.2 templates print today's date where they are told none."""
    assert "Today Date: 26 Jul 2024\n" in render(byte_tokenizer("llama3"), SINGLE, add_generation_prompt=True)


def test_a_token_across_the_boundary_leaves_the_prompt_as_generation_sees_it():
    """`:4` is one token here; the prompt ends with `:`, so the completion must begin with `4`, for both completions."""
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = bpe_tokenizer([":4"] * 50, ["<|end|>"], template, eos_token="<|end|>")
    whole = tokenizer.encode("user:2+2?<|end|>assistant:4<|end|>")
    prompt = generation_prompt(tokenizer, SINGLE)
    assert tokenizer.convert_ids_to_tokens(whole)[-2:] == [":4", "<|end|>"] and whole[: len(prompt)] != prompt
    one = encoded(tokenizer)
    assert one.prompt.tolist() == prompt
    assert [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in one.completions] == [
        ["4", "<|end|>"],
        ["F", "i", "v", "e", ".", "<|end|>"],
    ]


def test_prompts_are_cut_from_the_left_and_completions_from_the_right():
    """The prompt `user: 2+2?\\nassistant: ` has 22 tokens, `Five.\\n<|endoftext|>` has 7, `4\\n<|endoftext|>` has 3."""
    tokenizer = byte_tokenizer("no end")
    one = encoded(tokenizer, max_prompt_tokens=12, max_completion_tokens=4)
    assert tokenizer.decode(one.prompt) == "\nassistant: " and one.prompt_cut == 10
    assert tokenizer.decode(one.completions[0]) == "4\n<|endoftext|>"
    assert tokenizer.decode(one.completions[1]) == "Five"
    assert one.completion_cuts == (0, 3)


def test_completions_that_are_the_same_after_the_cut_are_unusable():
    tokenizer = byte_tokenizer("chatml")
    with pytest.raises(Unusable, match="chosen and rejected are the same within 4 tokens"):
        encoded(tokenizer, completions=("Yes, it is.", "Yes, it was."), max_completion_tokens=4)
    assert len(encoded(tokenizer, completions=("Yes, it is.", "Yes, it was.")).completions) == 2


def test_a_completion_that_is_the_same_as_one_before_after_the_cut_is_left_out():
    tokenizer = byte_tokenizer("chatml")
    one = encoded(tokenizer, completions=("4", "Five.", "Five!", "Six"), max_completion_tokens=4)
    assert [tokenizer.decode(ids) for ids in one.completions] == ["4<|im_end|>", "Five", "Six<|im_end|>"]
    assert one.completion_cuts == (0, 2, 0) and one.repeated == 1
    one = encoded(tokenizer, completions=("Five", "Six", "Five!"), max_completion_tokens=4)
    assert [tokenizer.decode(ids) for ids in one.completions] == ["Five", "Six<|im_end|>"]
    assert one.completion_cuts == (1, 0) and one.repeated == 1
    with pytest.raises(Unusable):
        encoded(tokenizer, completions=("Five.", "Five!", "Five?"), max_completion_tokens=4)


def test_the_question_is_the_users_text_or_a_line_for_each_turn():
    tokenizer = byte_tokenizer("chatml")
    assert encoded(tokenizer, SINGLE).question == "2+2?"
    assert as_question([Message("system", "Be brief."), Message("user", "2+2?")]) == "system: Be brief.\nuser: 2+2?"


def test_a_template_that_refuses_the_system_role_makes_the_example_unusable():
    with pytest.raises(Unusable, match="the chat template refuses the conversation: Only user and assistant"):
        encoded(byte_tokenizer("mistral"), SYSTEM)


def test_a_template_that_rewrites_the_prompt_once_it_is_answered_is_unusable():
    """Some templates drop or add things in turns that are no longer the last one."""
    template = "{% for m in messages %}{{ m.role }}{{ '!' if loop.last }}: {{ m.content }}\n{% endfor %}"
    tokenizer = bpe_tokenizer([], ["<|end|>"], template, eos_token="<|end|>")
    with pytest.raises(Unusable, match="renders the prompt differently once a completion follows"):
        encoded(tokenizer)


# --- what the paper's author ran


def test_total_truncation_leaves_a_completion_what_its_prompt_does_not_use():
    """A prompt 3 tokens below its limit leaves them to completions of 5: 8. One above its limit leaves none."""
    tokenizer = byte_tokenizer("chatml")
    example = PreferenceExample(SINGLE, ("four and more", "5"), "pairs.json", 1)
    prompt = len(generation_prompt(tokenizer, SINGLE))
    total = encode(example, tokenizer, Encoding(prompt + 3, 5, truncation="total"))
    assert tokenizer.decode(total.completions[0]) == "four and" and total.completion_cuts == (6, 0)
    assert tokenizer.decode(encode(example, tokenizer, Encoding(prompt + 3, 5)).completions[0]) == "four "
    cut = encode(example, tokenizer, Encoding(prompt - 2, 5, truncation="total"))
    assert len(cut.prompt) == prompt - 2 and tokenizer.decode(cut.completions[0]) == "four "


@pytest.mark.parametrize(
    ("name", "prompt", "chosen"),
    [
        ("chatml", "<|im_start|>user\n2+2?<|im_end|>\n", "<|im_start|>assistant\n4<|im_end|>"),
        (
            "smollm2",
            "<|im_start|>system\nYou are SmolLM.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n",
            "<|im_start|>system\nYou are SmolLM.<|im_end|>\n<|im_start|>assistant\n4<|im_end|>",
        ),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>",
        ),
    ],
)
def test_a_turn_rendered_alone_brings_header_system_prompt_and_bos_into_what_is_scored(name, prompt, chosen):
    tokenizer = byte_tokenizer(name)
    example = PreferenceExample(SINGLE, ("4", "Five."), "pairs.json", 1)
    encoded = encode(example, tokenizer, Encoding(1000, 1000, completion_rendering="alone"))
    assert tokenizer.decode(encoded.prompt) == prompt
    assert tokenizer.decode(encoded.completions[0]) == chosen
    twice = encode(example, tokenizer, Encoding(1000, 1000, completion_rendering="alone_with_eos"))
    behind = "" if name == "llama3" else "\n"
    assert tokenizer.decode(twice.completions[0]) == f"{chosen}{behind}{tokenizer.eos_token}"
    assert np.array_equal(twice.prompt, encoded.prompt)
