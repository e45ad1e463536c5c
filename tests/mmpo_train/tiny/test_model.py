"""The embedded default's tokenizer."""

import pytest

from mmpo_train.tiny.model import train_tokenizer
from mmpo_train.tiny.rows import instruction_examples


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(instruction_examples())


@pytest.mark.parametrize(
    "text",
    [
        "Ordinary English, isn't it?",
        " two  spaces ",
        "\n\n\ttabs\r\n",
        "naïve Ελλάδα 日本語 🙂\u200d",
        "\x00\x7f\ufffd",
        "1 234",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ordinary_english_costs_words_not_letters(tokenizer):
    text = "They want to know where the people of the city will go when the water is over the river and the road."
    assert len(tokenizer.encode(text)) < 1.3 * len(text.split())


def test_template_renders_one_conversation_with_one_end_of_sequence(tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert whole == "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\nHello<|im_end|>"
    assert prompt == "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\n"
