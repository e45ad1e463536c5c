"""The templates of the paper's models and of one more, on their real tokenizers; skipped where those are absent."""

import functools

import pytest

from eval_workers.harness.evaluation import _Scorer
from mmpo_train.chat.messages import Message
from mmpo_train.data.rendering import Unusable, end_ids_of, prompt_ids, special_ids
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.templates import Encoding, encode
from mmpo_train.model.policy import load_tokenizer
from mmpo_train.sft.data import Chat
from mmpo_train.sft.tokens import ChatCount, encode_chats
from tests.support.real_models import NAMES, real_model

CLOSING = {"smollm2": "<|im_end|>", "llama3": "<|eot_id|>", "llama3_2": "<|eot_id|>", "qwen2_5": "<|im_end|>"}
CONVERSATIONS = {
    "one turn": (Message("user", "What is 2 + 2?"),),
    "system": (Message("system", "Be brief."), Message("user", "What is 2 + 2?")),
    "turns": (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "What is\n\n  2 + 2?")),
    "Unicode": (Message("user", "Wie heißt 𝔊 auf 中文? 👩‍👩‍👧 e\u0301 \u200b½ العربية"),),
}
CHOSEN, REJECTED = "Es heißt 4,\n\n```\n  2 + 2\n```\nnot 五 👩‍👩‍👧.", "Five"


@functools.cache
def tokenizer_of(name):
    """Llama 3's first template prints the assistant's header always; here it is asked for, as in Meta's later one."""
    tokenizer = load_tokenizer(real_model(name))
    if name == "llama3":
        header = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        assert tokenizer.chat_template.endswith(header)
        asked = "{% if add_generation_prompt %}" + header + "{% endif %}"
        tokenizer.chat_template = tokenizer.chat_template.removesuffix(header) + asked
    return tokenizer


def encoded(tokenizer, prompt, completions=(CHOSEN, REJECTED), max_prompt_tokens=10_000, **how):
    example = PreferenceExample(prompt, completions, "pairs.json", 1)
    return encode(example, tokenizer, Encoding(max_prompt_tokens, 10_000, **how))


def by_transformers(tokenizer, prompt, **how):
    turns = [message._asdict() for message in prompt]
    return tokenizer.apply_chat_template(turns, return_dict=False, date_string="26 Jul 2024", **how)


@pytest.mark.parametrize("prompt", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_training_generation_and_harness_see_what_transformers_renders(name, prompt):
    tokenizer = tokenizer_of(name)
    expected = by_transformers(tokenizer, prompt, add_generation_prompt=True)
    assert encoded(tokenizer, prompt).prompt.tolist() == prompt_ids(tokenizer, prompt) == expected
    harness = _Scorer(tokenizer, "", 8192, chat=True)
    text = harness.apply_chat_template([message._asdict() for message in prompt])
    assert harness.tok_encode(text) == expected


@pytest.mark.parametrize("prompt", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_completion_is_its_text_and_one_closing_token_with_one_bos_before_it(name, prompt):
    """Prompt and completion are the whole conversation as transformers renders it, up to the closing token."""
    tokenizer = tokenizer_of(name)
    one = encoded(tokenizer, prompt)
    for ids, text in zip(one.completions, (CHOSEN, REJECTED), strict=True):
        assert tokenizer.decode(ids) == text + CLOSING[name]
        assert [int(token) for token in ids if int(token) in special_ids(tokenizer)] == [ids[-1]]
        assert int(ids[-1]) in end_ids_of(tokenizer)
        whole = by_transformers(tokenizer, (*prompt, Message("assistant", text)))
        own = [*one.prompt.tolist(), *ids.tolist()]
        assert whole[: len(own)] == own and not tokenizer.decode(whole[len(own) :]).strip()
    bos = tokenizer.bos_token_id
    if name.startswith("llama"):
        assert one.prompt[0] == bos and own.count(bos) == 1
    elif name == "smollm2":  # its BOS opens every turn: the template's system turn, each of the others, the answer's
        assert own.count(bos) == len(prompt) + 1 + (prompt[0].role != "system")
    else:
        assert bos is None


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_that_a_person_spells_are_text(name):
    """Every special token of the tokenizer, in question and answers: none but the template's own is there."""
    tokenizer = tokenizer_of(name)
    spelled = "".join(tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))))
    plain = encoded(tokenizer, (Message("user", "Say it."),), ("It is so.", "No."))
    one = encoded(tokenizer, (Message("user", f"Say {spelled} it."),), (f"It {spelled} is so.", f"{spelled}No."))
    for ours, theirs in zip((one.prompt, *one.completions), (plain.prompt, *plain.completions), strict=True):
        specials = [[int(token) for token in ids if int(token) in special_ids(tokenizer)] for ids in (ours, theirs)]
        assert specials[0] == specials[1]
    assert tokenizer.decode(one.completions[0]) == f"It {spelled} is so.{CLOSING[name]}"
    assert f"Say {spelled} it." in tokenizer.decode(one.prompt)


@pytest.mark.parametrize("prompt", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_cut_prompt_keeps_bos_and_its_end_and_leaves_the_completions_whole(name, prompt):
    tokenizer = tokenizer_of(name)
    prompt = (*prompt[:-1], prompt[-1]._replace(content="one two three " * 50 + prompt[-1].content))
    uncut, cut = encoded(tokenizer, prompt), encoded(tokenizer, prompt, max_prompt_tokens=40)
    whole = uncut.prompt.tolist()
    kept = whole[-40:] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *whole[-39:]]
    assert cut.prompt.tolist() == kept and cut.prompt_cut == len(whole) - 40
    for ours, theirs in zip(cut.completions, uncut.completions, strict=True):
        assert ours.tolist() == theirs.tolist()
    his = encoded(tokenizer, prompt, max_prompt_tokens=40, truncation="total", completion_rendering="alone")
    assert his.prompt.tolist() == by_transformers(tokenizer, prompt)[-40:]


@pytest.mark.parametrize("name", NAMES)
def test_instruction_tuning_learns_the_same_answers(name):
    tokenizer, count = tokenizer_of(name), ChatCount()
    turns = (*CONVERSATIONS["turns"], Message("assistant", CHOSEN))
    [(ids, learned)] = encode_chats([Chat(turns, "chats.json", 1)], tokenizer, 10_000, "all", count)
    assert ids.tolist() == by_transformers(tokenizer, turns)
    assert tokenizer.decode(ids[learned]) == f"Hello!{CLOSING[name]}{CHOSEN}{CLOSING[name]}"


def test_llama_3s_first_template_prints_a_header_behind_the_answer_and_is_refused():
    tokenizer = load_tokenizer(real_model("llama3"))
    for how in ("whole", "alone"):
        with pytest.raises(Unusable, match="assistant.*after the answer, not one closing token"):
            encoded(tokenizer, CONVERSATIONS["one turn"], completion_rendering=how)
    chat, count = Chat((*CONVERSATIONS["one turn"], Message("assistant", "4")), "chats.json", 1), ChatCount()
    assert not list(encode_chats([chat], tokenizer, 1000, "all", count)) and len(count.dropped) == 1
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in end_ids_of(tokenizer)
