"""Conversations as tokens: which of them are learned, by templates whose tokens are single bytes and special tokens."""

import numpy as np
import pytest
import torch

from mmpo_train.chat.messages import Message
from mmpo_train.data.tokens import read_counts, write_counts
from mmpo_train.errors import InputError
from mmpo_train.model.batches import collate
from mmpo_train.sft.data import Chat
from mmpo_train.sft.tokens import ChatCount, ChatTable, chats_key, encode_chats, learned_only, read_chats, write_split
from mmpo_train.storage.manifest import write_folder
from tests.support.tokenizers import CHATS, byte_tokenizer

TWO_ROUNDS = (
    Message("user", "Hi"),
    Message("assistant", "Hello!"),
    Message("user", "2+2?"),
    Message("assistant", " Vier: 4 ü\n"),
)
# template -> what is learned of TWO_ROUNDS, turn by turn
LEARNED = {
    "chatml": ["Hello!<|im_end|>", " Vier: 4 ü\n<|im_end|>"],
    "smollm2": ["Hello!<|im_end|>", " Vier: 4 ü\n<|im_end|>"],
    "llama3": ["Hello!<|eot_id|>", "Vier: 4 ü<|eot_id|>"],
    "zephyr": ["Hello!</s>", " Vier: 4 ü\n</s>"],
    "mistral": [" Hello!</s>", "  Vier: 4 ü\n</s>"],
    "no end": ["Hello!\n", " Vier: 4 ü\n\n<|endoftext|>"],
}


def chat(*turns, row=1):
    return Chat(turns, "chats.jsonl", row)


def encoded(tokenizer, chats, max_tokens=1000, turns="all"):
    count = ChatCount()
    return list(encode_chats(chats, tokenizer, max_tokens, turns, count)), count


def runs(tokenizer, ids, learned):
    """The learned stretches as text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], learned.astype(int), [0]])))
    return [tokenizer.decode(ids[start:end]) for start, end in zip(edges[::2], edges[1::2])]


@pytest.mark.parametrize("name", CHATS)
def test_every_turn_of_the_assistant_is_learned_to_its_closing_token_and_nothing_else(name):
    tokenizer = byte_tokenizer(name)
    [(ids, learned)], count = encoded(tokenizer, [chat(*TWO_ROUNDS)])
    assert runs(tokenizer, ids, learned) == LEARNED[name]
    assert (count.kept, count.tokens, count.learned) == (1, len(ids), learned.sum())


@pytest.mark.parametrize("name", CHATS)
def test_the_last_turn_alone_can_be_learned(name):
    tokenizer = byte_tokenizer(name)
    [(ids, learned)], _ = encoded(tokenizer, [chat(*TWO_ROUNDS)], turns="last")
    assert runs(tokenizer, ids, learned) == LEARNED[name][1:]


@pytest.mark.parametrize("name", sorted(set(CHATS) - {"no end"}))
def test_the_tokens_are_those_of_one_rendering(name):
    """Nothing is tokenised apart: no second BOS, no second system prompt."""
    tokenizer = byte_tokenizer(name)
    [(ids, _)], _ = encoded(tokenizer, [chat(*TWO_ROUNDS)])
    turns = [turn._asdict() for turn in TWO_ROUNDS]
    assert ids.tolist() == tokenizer.apply_chat_template(turns, return_dict=False, date_string="26 Jul 2024")


def test_long_conversations_are_cut_on_the_right_and_dropped_where_nothing_is_left_to_learn():
    tokenizer = byte_tokenizer("chatml")
    chats = [chat(*TWO_ROUNDS, row=1), chat(Message("user", "long " * 20), TWO_ROUNDS[1], row=2)]
    [(ids, learned)], count = encoded(tokenizer, chats, max_tokens=40)
    assert len(ids) == 40 and learned.sum() == len("Hello!") + 1
    assert (count.kept, count.cut) == (1, 2)
    assert count.dropped == {"nothing to learn within 40 tokens": ["chats.jsonl row 2"]}
    assert "1 dropped" in count.lines("train")[1]


def test_a_conversation_that_the_template_refuses_is_dropped_with_its_reason():
    tokenizer = byte_tokenizer("mistral")
    _, count = encoded(tokenizer, [chat(Message("system", "Be brief."), *TWO_ROUNDS)])
    assert count.kept == 0 and "the chat template refuses" in next(iter(count.dropped))


def test_a_template_that_rewrites_earlier_turns_is_not_learned_from():
    """As templates do that take a model's thoughts out of all turns but the last."""
    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content[:2] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    _, count = encoded(tokenizer, [chat(*TWO_ROUNDS)])
    assert list(count.dropped) == ["the chat template renders a turn differently once others follow"]


def test_many_conversations_keep_their_order():
    tokenizer = byte_tokenizer("chatml")
    chats = [chat(Message("user", "?"), Message("assistant", f"<{number}>"), row=number) for number in range(1100)]
    answers, _ = encoded(tokenizer, chats)
    assert [runs(tokenizer, *one)[0] for one in answers] == [f"<{number}><|im_end|>" for number in range(1100)]


def test_a_tokenizer_without_places_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="tokenizer.json"):
        encoded(Slow(), [chat(*TWO_ROUNDS)])


@pytest.fixture
def rows():
    """Three conversations; in the second two turns are learned."""
    ids = [np.array(one, dtype=np.int32) for one in ([1, 2, 3, 4], [5, 6, 7, 8, 9, 10], [11, 12])]
    marks = [np.array(one, dtype=bool) for one in ([0, 0, 1, 1], [0, 1, 0, 0, 1, 1], [0, 1])]
    return list(zip(ids, marks))


def table_of(rows):
    ids, marks = zip(*rows)
    return ChatTable(np.concatenate(ids), np.concatenate(marks), np.cumsum([len(one) for one in ids]))


def test_tables_come_back_as_they_were_written(rows, tmp_path):
    def fill(folder):
        write_split(folder, "train", iter(rows))
        write_counts(folder, {"train": ChatCount(kept=3, tokens=12)})

    write_folder(tmp_path / "tokens", fill)
    table = read_chats(tmp_path / "tokens", "train")
    assert len(table) == 3 and table.lengths.tolist() == [4, 6, 2]
    assert table.token_ids.tolist() == list(range(1, 13))
    assert table.learned.tolist() == np.concatenate([mark for _, mark in rows]).tolist()
    assert read_counts(tmp_path / "tokens", ChatCount)["train"].tokens == 12
    (tmp_path / "tokens" / "train-ids.bin").write_bytes(b"\0" * 48)
    assert read_counts(tmp_path / "tokens", ChatCount) is None


def test_a_taken_conversation_is_a_prompt_up_to_what_is_learned_and_a_completion(rows):
    chats, marks = table_of(rows).take([1, 2])
    assert [prompt.tolist() for prompt in chats.prompts] == [[5], [11]]
    assert [one.tolist() for (one,) in chats.completions] == [[6, 7, 8, 9, 10], [12]]
    assert [mark.tolist() for mark in marks] == [[True, False, False, True, True], [True]]


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_a_pass_scores_learned_tokens_alone_each_from_the_one_before(rows, layout):
    chats, marks = table_of(rows).take([1, 0])
    one = learned_only(collate(chats, np.arange(2), layout), marks)
    assert one.targets.tolist() == [6, 9, 10, 3, 4]
    assert one.completions.tolist() == [0, 0, 0, 1, 1]
    before = one.input_ids.flatten()[one.places]
    assert torch.equal(before, torch.tensor([5, 8, 9, 2, 3]))


def test_tables_of_other_conversations_tokenizers_cuts_or_turns_have_other_names():
    names = [("data", "model", 2048, "all"), ("other", "model", 2048, "all"), ("data", "other", 2048, "all")]
    names += [("data", "model", 2047, "all"), ("data", "model", 2048, "last")]
    assert len({chats_key(*name) for name in names}) == 5
