"""Templates: run by one function, within limits, on one day; what a person wrote stays text.

The tokenizers know single bytes and special tokens only, so that a token is a character.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.data import rendering
from mmpo_train.data.rendering import (
    Unusable,
    check_template,
    end_ids_of,
    facts,
    prompt_ids,
    render,
    special_ids,
    without_marks,
)
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.template_limits import TemplateProcess
from mmpo_train.data.templates import Encoding, encode
from mmpo_train.errors import InputError
from tests.support.tokenizers import CHATS, LLAMA3, byte_tokenizer

REPOSITORY = Path(__file__).resolve().parents[3]
SINGLE = (Message("user", "2+2?"),)
HEADER_ALWAYS = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def encoded(tokenizer, prompt=SINGLE, completions=("4", "Five."), **how):
    example = PreferenceExample(tuple(prompt), tuple(completions), "pairs.json", 1)
    return encode(example, tokenizer, Encoding(**{"max_prompt_tokens": 1000, "max_completion_tokens": 1000, **how}))


def count_of_specials(tokenizer, ids):
    return sum(int(token) in special_ids(tokenizer) for token in ids)


def with_template(name, template):
    tokenizer = byte_tokenizer(name)
    tokenizer.chat_template = template
    return tokenizer


def test_no_program_renders_a_template_past_the_one_function():
    """The snippet in a model card is for the reader of the card."""
    files = [
        path for package in ("mmpo_train", "eval_workers", "sweeps") for path in (REPOSITORY / package).rglob("*.py")
    ]
    calls = {path.name for path in files if re.search(r"\.apply_chat_template\(|render_jinja", path.read_text())}
    assert calls == {"template_process.py", "model_card.py"}


# --- what a person wrote


@pytest.mark.parametrize("name", sorted(set(CHATS) - {"no end"}))
def test_a_special_token_that_a_person_spells_stays_text(name):
    """In the question and in both answers: as many special tokens as without, every letter a token of its own."""
    tokenizer, spelled = byte_tokenizer(name), CHATS[name][-1]
    plain = encoded(tokenizer, (Message("user", "Is ~ a token?"),), ("~ it is", "No ~."))
    one = encoded(tokenizer, (Message("user", f"Is {spelled} a token?"),), (f"{spelled} it is", f"No {spelled}."))
    for theirs, ours in zip((plain.prompt, *plain.completions), (one.prompt, *one.completions), strict=True):
        assert count_of_specials(tokenizer, ours) == count_of_specials(tokenizer, theirs)
        assert len(ours) == len(theirs) + len(spelled) - 1
        assert tokenizer.decode(ours) == tokenizer.decode(theirs).replace("~", spelled)
    assert prompt_ids(tokenizer, [Message("user", f"Is {spelled} a token?")]) == one.prompt.tolist()


def test_a_rendered_text_for_people_looks_as_it_was_written():
    tokenizer = byte_tokenizer("chatml")
    text = render(tokenizer, [Message("user", "<|im_end|>?")], add_generation_prompt=False)
    assert text != without_marks(text) == "<|im_start|>user\n<|im_end|>?<|im_end|>\n"


def test_a_template_that_leaves_something_out_makes_the_example_unusable():
    """The system's words, as some templates do without a word; the beginning of the answer."""
    silent = with_template(
        "chatml",
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    with pytest.raises(Unusable, match="leaves out or changes what the system says"):
        encoded(silent, (Message("system", "Be brief."), *SINGLE))
    assert len(encoded(silent).completions) == 2
    hasty = with_template(
        "chatml",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    with pytest.raises(Unusable, match="leaves out or changes what the assistant says"):
        encoded(hasty, completions=("<think>2+2</think>4", "Five."))


def test_tools_and_further_fields_of_a_message_reach_the_template():
    tokenizer = with_template(
        "chatml", "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{{ m.calls }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "Go", "calls": "<|im_end|>", "name": None}]
    text = render(tokenizer, messages, add_generation_prompt=True, tools=[{"name": "add"}])
    assert without_marks(text) == '[{"name": "add"}]Go<|im_end|>' != text


# --- what follows an answer


@pytest.mark.parametrize("rendering_of", ["whole", "alone"])
def test_a_header_behind_the_closing_token_makes_the_example_unusable(rendering_of):
    """Llama 3's first template prints the assistant's header whether it is asked to or not."""
    tokenizer = with_template("llama3", HEADER_ALWAYS)
    with pytest.raises(Unusable, match=r"prints '<\|eot_id\|><\|start_header_id\|>assistant<\|end_header_id\|>' after"):
        encoded(tokenizer, completion_rendering=rendering_of)
    assert end_ids_of(tokenizer) == sorted(tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"]))


def test_words_behind_the_answer_make_the_example_unusable():
    tokenizer = with_template("chatml", "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>What else?")
    with pytest.raises(Unusable, match="not one closing token"):
        encoded(tokenizer)


@pytest.mark.parametrize(
    "brought", ["4<|im_end|>", "4<|im_end|>\n", "4<|im_end|><|im_end|>", "4<|im_end|>\n<|im_end|> \n"]
)
def test_closing_tokens_that_the_data_brought_are_taken_off(brought):
    tokenizer = byte_tokenizer("chatml")
    assert tokenizer.decode(encoded(tokenizer, completions=(brought, "Five.")).completions[0]) == "4<|im_end|>"
    with pytest.raises(Unusable, match="nothing but a closing token"):
        encoded(tokenizer, completions=("4", brought.replace("4", "")))


def test_a_closing_token_without_a_role_is_the_only_one():
    """`<|end|>` is an added token that is not special: no EOS comes on top."""
    tokenizer = byte_tokenizer("no end")
    tokenizer.add_tokens(["<|end|>"])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert tokenizer.decode(encoded(tokenizer).completions[0]) == "4<|end|>"


# --- BOS


def test_a_prompt_that_is_cut_keeps_bos_but_with_the_authors_settings():
    tokenizer = byte_tokenizer("llama3")
    whole = encoded(tokenizer).prompt
    one = encoded(tokenizer, max_prompt_tokens=20)
    assert one.prompt.tolist() == [tokenizer.bos_token_id, *whole[-19:]] and one.prompt_cut == len(whole) - 20
    his = encoded(tokenizer, max_prompt_tokens=20, truncation="total")
    assert his.prompt.tolist() == whole[-20:].tolist() and his.prompt_cut == one.prompt_cut
    without = byte_tokenizer("chatml")
    assert encoded(without, max_prompt_tokens=20).prompt.tolist() == encoded(without).prompt[-20:].tolist()


# --- one day


def test_every_conversation_takes_place_on_the_same_day():
    tokenizer = with_template(
        "chatml", "{{ date_string }}|{{ strftime_now('%Y-%m-%d %H:%M:%S') }}|{{ messages[0].content }}"
    )
    assert render(tokenizer, SINGLE, add_generation_prompt=False) == "26 Jul 2024|2024-07-26 00:00:00|2+2?"


def test_the_facts_of_a_rendering_name_its_template_and_its_day(tmp_path):
    """The template in a file of its own, as today, or among the settings, as before."""
    template = CHATS["zephyr"][0]
    expected = {"chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(), "chat_date": "2024-07-26"}
    byte_tokenizer("zephyr").save_pretrained(tmp_path)
    assert facts(tmp_path) == expected
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert facts(tmp_path) == expected


# --- limits

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set n = namespace(x='ab') %}{% for i in range(50) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (ENDLESS, "more than 1 s for one"),
        ("{{ 'a' * 10 ** 12 }}", "more than 200 MB"),
        (DOUBLED, "more than 200 MB"),
        ("{{ '%999999999999d' % 1 }}", "more than 200 MB"),
    ],
)
def test_a_template_without_end_is_stopped_and_the_next_one_runs(template, said, monkeypatch):
    monkeypatch.setattr(rendering, "_TEMPLATES", TemplateProcess(rendering.DATE, seconds=1, megabytes=200))
    with pytest.raises(InputError, match=f"the chat template of .* was stopped: it took {said}"):
        check_template(with_template("chatml", template))
    assert render(byte_tokenizer("zephyr"), SINGLE, add_generation_prompt=False) == "<|user|>\n2+2?</s>\n"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}", "refuses the conversation: Unexpected end of template"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses the conversation: maximum recursion depth"),
        ("{{ 1 + messages[0].content }}", "refuses the conversation: unsupported operand"),
        ("{{ messages[0].content.__class__.__mro__ }}", "refuses the conversation: access to attribute"),
        ("<|im_start|>", "leaves out or changes what the user says"),
        ({"rag": "a", "tool_use": "b"}, "cannot be chosen: This model has multiple chat templates"),
        ("{{ bos_token }}{{ bos_token }}" + LLAMA3, "begins with <.begin_of_text.> twice"),
        (LLAMA3.partition("{% if add_generation_prompt")[0], "before an answer, but not where it asks for one"),
    ],
)
def test_a_template_that_cannot_render_is_refused_before_anything_starts(template, said):
    with pytest.raises(InputError, match=said) as caught:
        check_template(with_template("llama3", template))
    assert "chat template of" in str(caught.value)


def test_the_process_of_templates_ends_with_its_program():
    program = (
        "from tests.support.tokenizers import byte_tokenizer\nfrom mmpo_train.data import rendering\n"
        "rendering.check_template(byte_tokenizer('chatml'))\nprint(rendering._TEMPLATES._process.pid)"
    )
    pid = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    deadline = time.monotonic() + 20
    while (Path("/proc") / pid.strip()).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not (Path("/proc") / pid.strip()).exists()
