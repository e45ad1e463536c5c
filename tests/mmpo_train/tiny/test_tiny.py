"""The embedded default: what its data promise, what its judge can tell, and that its model learns."""

import hashlib
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from mmpo_train.errors import InputError
from mmpo_train.tiny import model as tiny
from mmpo_train.tiny import tasks as tiny_tasks

SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.train_tokenizer(tiny.instruction_examples())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """`tiny` tuned on a sixteenth of its demonstrations, with what `progress` heard."""
    folder, heard = tmp_path_factory.mktemp("tiny"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "RECIPE", replace(tiny.RECIPE, demonstrations=1024))
        tiny.build(folder, lambda stage, share: heard.append((stage, share)))
    return folder, heard


def test_data_are_the_same_in_every_process():
    """Whatever PYTHONHASHSEED is: set and dict order must not leak into what is generated."""
    made = "[tiny.preference_examples('train'), tiny.preference_examples('validation'), tiny.instruction_examples()]"
    imports = "import hashlib; from mmpo_train.tiny import model as tiny"
    program = f"{imports}; print(hashlib.sha256(repr({made}).encode()).hexdigest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(digests) == 1


def test_changed_data_need_a_new_version():
    """Trials are compared by the recipe's digest: if this fails on purpose, raise RECIPE.version and pin again."""
    rows = [tiny.preference_examples(split) for split in SPLITS]
    digest = hashlib.sha256(repr((rows, tiny.instruction_examples())).encode()).hexdigest()[:16]
    assert (tiny.RECIPE.version, digest) == (1, "cd09a0eb773f19a6")


def test_importing_tiny_imports_no_torch():
    program = "import sys; from mmpo_train.tiny import model as tiny; tiny.fingerprint(); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "False"


def test_fingerprint_changes_with_the_recipe(monkeypatch):
    before = tiny.fingerprint()
    monkeypatch.setattr(tiny, "RECIPE", replace(tiny.RECIPE, seed=tiny.RECIPE.seed + 1))
    assert tiny.fingerprint() != before


def test_no_validation_prompt_is_trained_on():
    train, validation = ([row["prompt"] for row in tiny.preference_examples(split)] for split in SPLITS)
    demonstrated = {row["prompt"] for row in tiny.instruction_examples()}
    assert len(set(train)) == tiny.RECIPE.train_prompts
    assert len(set(validation)) == tiny.RECIPE.validation_prompts
    assert not set(validation) & (set(train) | demonstrated)


def test_unknown_split_is_refused():
    with pytest.raises(InputError, match="'test' is not 'train' or 'validation'"):
        tiny.preference_examples("test")


@pytest.mark.parametrize("split", SPLITS)
def test_chosen_is_perfect_and_rejected_is_worse(split):
    for row in tiny.preference_examples(split):
        assert tiny.judge(row["prompt"], row["chosen"]) == 1.0 > tiny.judge(row["prompt"], row["rejected"])


@pytest.mark.parametrize("split", SPLITS)
def test_ranks_are_the_judges_order_and_ties(split):
    for row in tiny.ranked_examples(split):
        assert 5 <= len(row["answers"]) <= 7
        assert row["answers"][0]["rank"] == 1 and tiny.judge(row["prompt"], row["answers"][0]["answer"]) == 1.0
        quality = [(entry["rank"], tiny.judge(row["prompt"], entry["answer"])) for entry in row["answers"]]
        for (rank, mark), (next_rank, next_mark) in pairwise(quality):
            assert (mark == next_mark and rank == next_rank) or (mark > next_mark and rank + 1 == next_rank)


def test_ranked_answers_are_mostly_seven_often_tie_and_have_one_of_rank_two():
    """Of 1024: 726 with seven, 668 with a tie."""
    ranks = [[entry["rank"] for entry in row["answers"]] for row in tiny.ranked_examples("train")]
    assert 0.65 < sum(len(row) == 7 for row in ranks) / len(ranks) < 0.75
    assert 0.5 < sum(len(set(row)) < len(row) for row in ranks) / len(ranks) < 0.75
    assert all(row[:2] == [1, 2] and row.count(2) == 1 for row in ranks)


def test_negatives_below_rank_two_fall_from_right_and_bare_to_wrong_and_sloppy():
    marks = [
        [tiny.judge(row["prompt"], entry["answer"]) for entry in row["answers"] if entry["rank"] > 2]
        for row in tiny.ranked_examples("train")
    ]
    assert {mark for row in marks for mark in row} == {0.8, 0.7, 0.4, 0.3, 0.2, 0.1}
    full = [row for row in marks if len(row) == 5]
    assert all(row[1] >= 0.7 and row[2] <= 0.4 and row[4] <= 0.2 for row in full)


def test_length_gives_nothing_away(tokenizer):
    """Over both splits: means within a quarter of a token, and neither is the longer one in 58% of the pairs."""
    rows = [row for split in SPLITS for row in tiny.preference_examples(split)]
    chosen, rejected = ([len(tokenizer.encode(row[name])) for row in rows] for name in ("chosen", "rejected"))
    pairs = list(zip(chosen, rejected, strict=True))
    assert abs(statistics.mean(chosen) - statistics.mean(rejected)) < 0.25
    assert sum(a > b for a, b in pairs) < 0.58 * len(pairs) > sum(a < b for a, b in pairs)


@pytest.mark.parametrize(
    ("prompt", "completion", "mark"),
    [
        ("What is the capital of Canada?", "The capital of Canada is Ottawa.", 1.0),
        ("Hello! What is the capital of Canada?", "It is Toronto.", 0.4),
        # Two cities named: whichever is meant, the question is not answered.
        ("What is the capital of Canada?", "It is Ottawa or Toronto.", 0.4),
        ("What is the capital of Canada?", "ottawa", 0.8),
        ("What is the capital of Canada?", "Ottawa.", 0.9),
        ("What is the capital of Canada?", "It is Ottawa. I guess.", 0.9),
        ("What is the capital of Canada?", "It is Ottawa. Yes, it is Ottawa.", 0.8),
        ("What is the capital of Canada?", "", 0.0),
        ("Which day comes after Sunday?", "Monday comes after Sunday.", 1.0),
        ("Which month comes before January?", "It is December.", 1.0),
        ("Add 5 and 1.", "5 plus 1 is 6.", 1.0),
        # The typical mistake, 5, is also a number of the question.
        ("Add 5 and 1.", "5 plus 1 is 5.", 0.4),
        ("Of 12 and 9, which is bigger?", "12 is bigger.", 1.0),
        ("Count the words: lamp, river, stone.", "There are three words.", 1.0),
        ("Tell me the last word of lamp, river.", "The last word is river.", 1.0),
        ("Repeat after me: lamp river.", "You said lamp river.", 1.0),
        ("Repeat after me: lamp river.", "You said lamp river river.", 0.4),
    ],
)
def test_judge_marks_any_answer(prompt, completion, mark):
    assert tiny.judge(prompt, completion) == mark


def test_judge_refuses_questions_it_cannot_verify():
    with pytest.raises(InputError, match="knows no such question"):
        tiny.judge("What is the meaning of life?", "It is 42.")


def test_prompt_is_read_back_as_the_question_it_was():
    random = Random(0)
    for _ in range(1000):
        question = tiny_tasks.draw_question(random)
        assert tiny_tasks.solve(question.prompt) == question.solution


def test_demonstrations_are_uneven():
    """Over half of them right, under half of them beyond reproach: there is something to learn from preferences."""
    rows = tiny.instruction_examples()[:2000]
    marks = [tiny.judge(row["prompt"], row["completion"]) for row in rows]
    assert 0.5 < sum(mark >= 0.6 for mark in marks) / len(marks) < 0.7
    assert 0.2 < sum(mark == 1.0 for mark in marks) / len(marks) < 0.4


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


@pytest.mark.parametrize("completion", ["Hello", " Hello", "\nHello", "\n\n  Hello\n", "s"])
def test_prompt_tokens_begin_the_conversation_whatever_follows(tokenizer, completion):
    row = {"prompt": "Hi", "completion": completion}
    [conversation] = tiny.tokenize_demonstrations(tokenizer, [row])
    ids = [token for token, kept in zip(conversation.token_ids, conversation.is_completion, strict=True) if kept]
    assert tokenizer.decode(ids) == f"{completion}<|im_end|>"
    assert ids.count(tokenizer.eos_token_id) == 1
    assert conversation.token_ids.count(tokenizer.bos_token_id) == 2, "one a turn, and none before the first"


def test_built_model_loads_and_has_about_a_million_parameters(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = built
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert 0.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.3e6
    assert model.config.max_position_embeddings >= 4096
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert list(folder.glob("*.safetensors"))


def test_building_says_how_far_it_is(built):
    _, heard = built
    assert heard[0] == ("tokenizer", 1.0) and heard[-1] == ("instruction tuning", 1.0)
    assert [share for _, share in heard[1:]] == sorted(share for _, share in heard[1:])


def test_instruction_tuning_lowers_the_loss_on_unseen_prompts(built):
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from mmpo_train.tiny.tuning import completion_nats

    folder, _ = built
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in tiny.preference_examples("validation")]
    conversations = tiny.tokenize_demonstrations(tokenizer, rows[:64])
    with torch.no_grad():
        untrained = completion_nats(tiny.new_model(tokenizer), conversations)
        tuned = completion_nats(AutoModelForCausalLM.from_pretrained(folder), conversations)
    assert tuned < 0.6 * untrained


def test_building_twice_gives_the_same_weights_and_leaves_the_callers_randomness(monkeypatch, tmp_path):
    import torch
    from safetensors.torch import load_file

    monkeypatch.setattr(tiny, "RECIPE", replace(tiny.RECIPE, demonstrations=64))
    torch.manual_seed(5)
    expected = torch.rand(3)
    for name in ("once", "again"):
        torch.manual_seed(5)
        tiny.build(tmp_path / name)
        assert torch.equal(torch.rand(3), expected)
    once, again = (load_file(tmp_path / name / "model.safetensors") for name in ("once", "again"))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_sft_loss_is_the_mean_over_completion_tokens_however_many_passes(tokenizer):
    """One step over four conversations: in one pass, and one conversation a pass, against a plain per-token sum."""
    import torch

    from mmpo_train.tiny.tuning import SFTConfig, instruction_tune

    conversations = tiny.tokenize_demonstrations(tokenizer, tiny.instruction_examples()[:4])
    total, count = 0.0, 0
    torch.manual_seed(0)
    model = tiny.new_model(tokenizer)
    for conversation in conversations:
        with torch.no_grad():
            logps = model(torch.tensor([conversation.token_ids])).logits[0].double().log_softmax(-1)
        for position, kept in enumerate(conversation.is_completion):
            if kept:
                total -= float(logps[position - 1, conversation.token_ids[position]])
                count += 1
    for tokens_per_pass in (10_000, 1):
        torch.manual_seed(0)
        config = SFTConfig(learning_rate=1e-3, conversations_per_step=4, tokens_per_pass=tokens_per_pass)
        [loss] = instruction_tune(tiny.new_model(tokenizer), conversations, config)
        assert loss == pytest.approx(total / count, rel=1e-5)
