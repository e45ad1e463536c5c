"""Text that spells messages: what is taken for them, and what stays text."""

import json

import pytest

from mmpo_train.chat.problems import RowProblem
from mmpo_train.chat.texts import Doubled, marked_turns, parse_json, spoken_turns, without_end_tokens, written_messages

MESSAGES = [{"role": "user", "content": 'Say "it\'s" [twice]: {}'}, {"role": "assistant", "content": "it's\nit's"}]
SAID = [("system", "Be brief."), ("user", "2 + 2?"), ("assistant", "4"), ("user", "3 + 3?"), ("assistant", "")]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(MESSAGES),
        json.dumps(MESSAGES, indent=2),
        str(MESSAGES),
        json.dumps(json.dumps(MESSAGES)),
        f"\n  {json.dumps(MESSAGES)}\n",
        str([dict(reversed(message.items())) for message in MESSAGES]),
        f"[{MESSAGES[0]}\n {MESSAGES[1]}]",
        f"array({MESSAGES},\n      dtype=object)",
        "\n".join(map(json.dumps, MESSAGES)),
    ],
    ids=["JSON", "indented", "Python", "JSON of JSON", "spaced", "content first", "numpy", "array", "JSON lines"],
)
def test_messages_are_read_from_whatever_spells_them(text):
    assert written_messages(text) == MESSAGES


def test_one_message_and_sharegpts_names_are_read_too():
    one = {"from": "gpt", "value": "4"}
    assert written_messages(json.dumps(one)) == one
    assert written_messages(str([one])) == [one]


@pytest.mark.parametrize(
    "text",
    [
        "4",
        "",
        '[{"a": 1}]',
        '{"role": "admin", "name": "Bob"}',
        '{"role": "user", "name": "Bob"}',
        '[{"role": "user", "content": "a"}, 3]',
        'Use this: [{"role": "user", "content": "hi"}]',
        '[{"role": "user", "content": "hi"}]\n\nThat is how a request looks.',
        '{"role": "user", "content": "hi"} is one message.',
        '["user", "assistant"]',
        "{% if message['role'] == 'user' %}",
    ],
)
def test_other_text_stays_text(text):
    assert written_messages(text) is None


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(MESSAGES)[:-20],
        '[{"role": "user", "content": ' + "[" * 200_000,
        "[{'role': 'user', 'content': " + "(" * 100_000,
        '[{"role": "user", "content": ' + "9" * 5000 + "}]",
    ],
    ids=["cut off", "brackets", "Python brackets", "digits"],
)
def test_a_list_of_messages_that_cannot_be_read_is_refused(text):
    with pytest.raises(RowProblem, match="messages as text that cannot be read") as caught:
        written_messages(text)
    assert caught.value.reason == "wrong type" and len(caught.value.detail) < 200


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4"
        "<|im_end|>\n<|im_start|>user\n3 + 3?<|im_end|>\n<|im_start|>assistant\n",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\n2 + 2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n3 + 3?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|system|>\nBe brief.</s>\n<|user|>\n2 + 2?</s>\n<|assistant|>\n4</s>\n<|user|>\n3 + 3?</s>\n<|assistant|>\n",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n2 + 2? [/INST] 4 </s><s>[INST] 3 + 3? [/INST]",
        "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|><|header_start|>user<|header_end|>"
        "\n\n2 + 2?<|eot|><|header_start|>assistant<|header_end|>\n\n4<|eot|><|header_start|>user<|header_end|>"
        "\n\n3 + 3?<|eot|><|header_start|>assistant<|header_end|>\n\n",
    ],
    ids=["ChatML", "Llama 3", "Zephyr", "Llama 2", "Llama 4"],
)
def test_what_a_chat_template_has_rendered_is_taken_apart(text):
    assert marked_turns(text) == SAID


def test_gemma_calls_the_assistant_model_and_has_no_system():
    text = "<bos><start_of_turn>user\n2 + 2?<end_of_turn>\n<start_of_turn>model\n4<end_of_turn>\n"
    assert marked_turns(text) == [("user", "2 + 2?"), ("model", "4")]


@pytest.mark.parametrize("text", ["<b>bold</b>", "<|im_start|>", "[INST", "a <|im_start|>user\nb", "< 3", "<s>4</s>"])
def test_other_marks_are_text(text):
    assert marked_turns(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "\n\nHuman: 2 + 2?\n\nAssistant: 4",
        "Human: 2 + 2?\n\nAssistant: 4",
        "\nhuman: 2 + 2?\nassistant: 4",
        "User: 2 + 2?\nAssistant: 4",
        "USER: 2 + 2?\n\nASSISTANT: 4",
        "USER: 2 + 2? ASSISTANT: 4",
        "### Human: 2 + 2?\n### Assistant: 4",
        "### Instruction:\n2 + 2?\n\n### Response:\n4",
    ],
)
def test_transcripts_are_taken_apart_whoever_speaks(text):
    assert spoken_turns(text) == [("user", "2 + 2?"), ("assistant", "4")]


def test_what_alpaca_and_vicuna_print_before_it_is_the_system_message():
    system = "Below is an instruction that describes a task."
    text = f"{system}\n\n### Instruction:\nAdd.\n\n### Input:\n2, 2\n\n### Response:\n4"
    assert spoken_turns(text) == [("system", system), ("user", "Add.\n2, 2"), ("assistant", "4")]
    text = "A chat between a user and a bot. USER: 2 + 2? ASSISTANT: 4</s>USER: 3 + 3? ASSISTANT:"
    authors = [author for author, _ in spoken_turns(text)]
    assert authors == ["system", "user", "assistant", "user", "assistant"]
    assert spoken_turns("A dialogue. USER: 2 + 2? ASSISTANT: 4") == []


@pytest.mark.parametrize("text", ["Human: a word.", "Humans: many\n\nAssistant: no", "Assistant: 4", "User interface"])
def test_one_label_makes_no_transcript(text):
    assert spoken_turns(text) == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("4<|im_end|>\n", "4"),
        ("4 </s></s>", "4"),
        ("4<|eot_id|><|end_of_text|>", "4"),
        ("4", "4"),
        (" 4 \n", " 4 \n"),
        ("a <|im_end|> b", "a <|im_end|> b"),
        ("<s>wrong</s> and <s>gone</s>", "<s>wrong</s> and <s>gone</s>"),
        ("<s> 4</s>", "4"),
        ("<s>4", "<s>4"),
        ("4<|eot|>", "4"),
        ("4[EOS]", "4"),
        ("4</s><pad><pad>", "4"),
        ("a[0]", "a[0]"),
        ("5 > 4", "5 > 4"),
        ("<|im_end|>", ""),
    ],
)
def test_end_tokens_at_the_end_are_taken_off(text, kept):
    assert without_end_tokens(text) == kept


def test_json_that_nobody_means_has_a_reason_and_no_traceback():
    for text, said in (
        ("[" * 200_000, "brackets nested too deeply"),
        ("9" * 5000, "thousands of digits"),
        ('{"a": }', "column 7"),
    ):
        with pytest.raises(RowProblem, match=said) as caught:
            parse_json(text)
        assert caught.value.reason == "unreadable row"


def test_a_key_given_twice_is_remembered_at_any_depth():
    outer = parse_json('{"a": 1, "b": [{"c": 1, "c": 2}], "d": {"c": 1}}')
    assert outer == {"a": 1, "b": [{"c": 2}], "d": {"c": 1}}
    assert [type(one) for one in (outer, outer["b"][0], outer["d"])] == [dict, Doubled, dict]
