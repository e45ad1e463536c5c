"""Scoring without gradient, completions behind their own prompt or several behind one."""

import numpy as np
import pytest
import torch

from mmpo_train.batches import collate, plan_table
from mmpo_train.logps import CompletionLogps
from mmpo_train.policy import load_model
from mmpo_train.scoring import ScoredTable, prompts_can_be_shared, score_pairs
from mmpo_train.tokens import TokenTable


@pytest.fixture(scope="module")
def table(tokenizer):
    """Twelve prompts of 1 to 30 tokens with one to six completions of 1 to 12."""
    random = np.random.default_rng(3)

    def ids(most):
        return random.integers(0, len(tokenizer), random.integers(1, most + 1)).astype(np.int32)

    prompts = tuple(ids(30) for _ in range(12))
    return TokenTable(prompts, tuple(tuple(ids(12) for _ in range(1 + row % 6)) for row in range(12)))


@pytest.fixture(scope="module")
def forward(model_folder):
    return CompletionLogps(load_model(model_folder))


def alone(forward, table):
    """Each completion in a pass of its own, by the same model."""
    scores = np.zeros((len(table), table.most_completions), dtype=np.float32)
    with torch.no_grad():
        for row, (prompt, completions) in enumerate(zip(table.prompts, table.completions, strict=True)):
            for column, ids in enumerate(completions):
                scores[row, column] = forward(collate(TokenTable((prompt,), ((ids,),)), np.array([0]))).item()
    return scores


@pytest.mark.parametrize("share_prompts", [False, True])
@pytest.mark.parametrize("tokens_per_pass", [1, 200, 100_000])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_completion_scores_as_it_does_alone(forward, table, share_prompts, tokens_per_pass, workers):
    order = np.random.default_rng(1).permutation(12)
    shares = [
        score_pairs(forward, table, order, tokens_per_pass, worker, workers, share_prompts=share_prompts)
        for worker in range(workers)
    ]
    np.testing.assert_allclose(sum(shares), alone(forward, table)[order], atol=2e-5)


def test_a_shared_prompt_is_computed_once(forward, table):
    """Tokens in the model: 6 completions behind one prompt cost the prompt once instead of six times."""
    seen = []
    hook = forward.model.model.register_forward_hook(
        lambda module, arguments, values, output: seen.append(values["input_ids"].numel()), with_kwargs=True
    )
    try:
        for share_prompts in (False, True):
            score_pairs(forward, table, [5], 100_000, share_prompts=share_prompts)
    finally:
        hook.remove()
    prompt, completions = len(table.prompts[5]), [len(ids) for ids in table.completions[5]]
    assert seen == [6 * (prompt + max(completions)), prompt + sum(completions)]


def test_another_completions_tokens_move_no_log_probability_behind_the_same_prompt(forward, table):
    changed = [list(row) for row in table.completions]
    changed[5][2] = changed[5][2][::-1].copy() + 1
    before, after = (
        score_pairs(forward, one, [5], 100_000, share_prompts=True)
        for one in (table, TokenTable(table.prompts, tuple(map(tuple, changed))))
    )
    assert (np.delete(before, 2, axis=1) == np.delete(after, 2, axis=1)).all() and before[0, 2] != after[0, 2]


def test_gradients_are_those_of_completions_alone(forward, table):
    gradients = []
    for share_prompts in (False, True):
        forward.zero_grad()
        forward(collate(table, np.arange(12), share_prompts=share_prompts)).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in forward.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() < 1e-5 * gradients[0].abs().max()


def test_prompts_are_shared_where_that_changes_nothing(forward, table):
    assert prompts_can_be_shared(forward, table, bf16=False)


def test_a_model_that_counts_positions_by_itself_does_not_share_prompts(tokenizer, table):
    """Bloom derives its positions (ALiBi) from a two-dimensional mask."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(1)
    model = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4))
    assert not prompts_can_be_shared(CompletionLogps(model), table, bf16=False)


def test_a_model_with_a_short_sliding_window_does_not_share_prompts(tokenizer, table):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.3,
    )
    assert not prompts_can_be_shared(CompletionLogps(MistralForCausalLM(config)), table, bf16=False)


def test_a_plan_holds_each_prompt_once_within_the_budget(table):
    for share_prompts, tokens in ((True, table.together), (False, table.longest)):
        rows = np.ones(12, dtype=int) if share_prompts else np.array([len(row) for row in table.completions])
        passes = plan_table(table, np.arange(12), 120, share_prompts=share_prompts)
        assert sorted(np.concatenate(passes)) == list(range(12))
        assert all(len(some) == 1 or rows[some].sum() * tokens[some].max() <= 120 for some in passes)


def test_taking_some_completions_takes_their_reference_with_them(table):
    ref_logps = np.where(table.completion_tokens > 0, np.arange(72).reshape(12, 6), 0).astype(np.float32)
    taken = ScoredTable(table, ref_logps).take(np.array([5, 1]), np.array([[0, 4, 2], [0, 1, -1]]))
    assert taken.ref_logps.tolist() == [[30, 34, 32], [6, 7, 0]]
    assert [len(row) for row in taken.table.completions] == [3, 2]
    assert taken.table.completions[0][1] is table.completions[5][4]
