"""`tiny` as the loop makes it: what is learned of its demonstrations, in which order, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest

from mmpo_train.model.policy import load_tokenizer
from mmpo_train.sft.data import Chat, parse_chat
from mmpo_train.sft.tiny import _demonstrations, _order, build_tiny
from mmpo_train.sft.tokens import ChatCount, encode_chats
from mmpo_train.tiny import rows
from mmpo_train.tiny.recipe import CHAT_TEMPLATE, RECIPE


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """`tiny` tuned on a sixteenth of its demonstrations, with what was said."""
    folder, heard = tmp_path_factory.mktemp("tiny"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "RECIPE", replace(RECIPE, demonstrations=1024))
        build_tiny(folder, lambda stage, share: heard.append((stage, share)))
    return folder, heard


def test_built_model_loads_and_has_about_a_million_parameters(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = built
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert 0.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.3e6
    assert model.config.max_position_embeddings >= 4096
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert list(folder.glob("*.safetensors"))


def test_building_says_how_far_it_is(built):
    _, heard = built
    assert heard[0] == ("tokenizer", 1.0) and heard[-1] == ("instruction tuning", 1.0)
    assert [share for _, share in heard[1:]] == sorted(share for _, share in heard[1:])


def test_instruction_tuning_lowers_the_loss_on_unseen_prompts(built, tmp_path):
    """A plain forward pass over one conversation at a time, before and after."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mmpo_train.tiny.model import build_untrained

    folder, _ = built
    build_untrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    losses = []
    for model in map(AutoModelForCausalLM.from_pretrained, (tmp_path, folder)):
        total = 0.0
        for row in rows.preference_examples("validation")[:16]:
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
            prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
            labels = ids.clone()
            labels[:, : len(prompt)] = -100
            with torch.no_grad():
                total += float(model(input_ids=ids, labels=labels).loss) * (ids.shape[1] - len(prompt))
        losses.append(total)
    assert losses[1] < 0.6 * losses[0]


def test_building_twice_gives_the_same_weights_and_leaves_the_callers_randomness(monkeypatch, tmp_path):
    import torch
    from safetensors.torch import load_file

    monkeypatch.setattr(rows, "RECIPE", replace(RECIPE, demonstrations=64))
    torch.manual_seed(5)
    expected = torch.rand(3)
    for name in ("once", "again"):
        torch.manual_seed(5)
        (tmp_path / name).mkdir()
        build_tiny(tmp_path / name)
        assert torch.equal(torch.rand(3), expected)
    once, again = (load_file(tmp_path / name / "model.safetensors") for name in ("once", "again"))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_batches_are_of_like_length_and_every_conversation_is_in_one():
    lengths = np.random.default_rng(0).integers(5, 60, 512).tolist()
    order = _order(lengths, 16, seed=3)
    assert sorted(order) == list(range(512)) and order.tolist() != sorted(order)
    spreads = [np.ptp([lengths[one] for one in some]) for some in order.reshape(-1, 16)]
    assert max(spreads) < 20 and np.mean(spreads) < 5
    assert not np.array_equal(order, _order(lengths, 16, seed=4))


def test_demonstrations_are_the_tokens_that_any_conversation_becomes(built, monkeypatch):
    monkeypatch.setattr(rows, "RECIPE", replace(RECIPE, demonstrations=50))
    tokenizer = load_tokenizer(built[0])
    chats = [Chat(parse_chat(row).turns, "tiny", number) for number, row in enumerate(rows.instruction_examples(), 1)]
    expected = list(encode_chats(chats, tokenizer, 512, "all", ChatCount()))
    table = _demonstrations(tokenizer)
    assert table.lengths.tolist() == [len(ids) for ids, _ in expected]
    assert table.token_ids.tolist() == [one for ids, _ in expected for one in ids]
    assert table.learned.tolist() == [one for _, learned in expected for one in learned]
