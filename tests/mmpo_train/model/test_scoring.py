"""Scoring without gradient, completions behind their own prompt or several behind one."""

import numpy as np
import pytest
import torch

from mmpo_train.config import LAYOUTS
from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.batches import collate, plan_passes, tokens_in
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.scoring import ScoredTable, score_pairs


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens_per_pass", [1, 200, 100_000])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_completion_scores_as_it_does_alone(forward, table, layout, tokens_per_pass, workers):
    order = np.random.default_rng(1).permutation(12)
    shares = [
        score_pairs(forward, table, order, tokens_per_pass, worker, workers, layout=layout) for worker in range(workers)
    ]
    np.testing.assert_allclose(sum(shares), alone(forward, table)[order], atol=2e-5)


def test_a_shared_prompt_is_computed_once(forward, table):
    """Tokens in the model: 6 completions behind one prompt cost the prompt once instead of six times."""
    seen = []
    hook = forward.model.model.register_forward_hook(
        lambda module, arguments, values, output: seen.append(values["input_ids"].numel()), with_kwargs=True
    )
    try:
        for layout in ("padded", "packed", "shared"):
            score_pairs(forward, table, [5], 100_000, layout=layout)
    finally:
        hook.remove()
    prompt, completions = len(table.prompts[5]), [len(ids) for ids in table.completions[5]]
    assert seen == [6 * (prompt + max(completions)), 6 * prompt + sum(completions), prompt + sum(completions)]


def test_another_completions_tokens_move_no_log_probability_behind_the_same_prompt(forward, table):
    changed = [list(row) for row in table.completions]
    changed[5][2] = changed[5][2][::-1].copy() + 1
    before, after = (
        score_pairs(forward, one, [5], 100_000, layout="shared")
        for one in (table, TokenTable(table.prompts, tuple(map(tuple, changed))))
    )
    assert (np.delete(before, 2, axis=1) == np.delete(after, 2, axis=1)).all() and before[0, 2] != after[0, 2]


def test_gradients_are_those_of_completions_alone(forward, table):
    gradients = []
    for layout in ("padded", "packed", "shared"):
        forward.zero_grad()
        forward(collate(table, np.arange(12), layout)).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in forward.parameters()]))
    for gradient in gradients[1:]:
        assert (gradients[0] - gradient).abs().max() < 1e-5 * gradients[0].abs().max()


def test_a_plan_holds_each_prompt_once_within_the_budget(table):
    rows = np.array([len(row) for row in table.completions])
    for layout in LAYOUTS:
        passes = plan_passes(table, np.arange(12), 120, layout=layout)
        assert sorted(np.concatenate(passes)) == list(range(12))
        for some in passes:
            padded = rows[some].sum() * table.longest[some].max()
            tokens = padded if layout == "padded" else tokens_in(table, layout)[some].sum()
            assert len(some) == 1 or tokens <= 120


def test_scores_that_do_not_fit_into_memory_are_computed_in_smaller_passes(forward, table):
    """A machine that holds 100 tokens at a time."""
    tokens = []

    def small_machine(one):
        if one.input_ids.numel() > 100 and one.prompt_count > 1:
            raise torch.OutOfMemoryError("no room")
        tokens.append(one.input_ids.numel())
        return forward(one)

    scores = score_pairs(small_machine, table, range(12), 1000, layout="shared")
    np.testing.assert_allclose(scores, alone(forward, table), atol=2e-5)
    assert len(tokens) > 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_prompt_that_does_not_fit_alone_is_an_error(forward, table, workers):
    def no_room(one):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        score_pairs(no_room, table, range(12), 1000, workers=workers)


def test_taking_some_completions_takes_their_reference_with_them(table):
    ref_logps = np.where(table.completion_tokens > 0, np.arange(72).reshape(12, 6), 0).astype(np.float32)
    taken = ScoredTable(table, ref_logps).take(np.array([5, 1]), np.array([[0, 4, 2], [0, 1, -1]]))
    assert taken.ref_logps.tolist() == [[30, 34, 32], [6, 7, 0]]
    assert [len(row) for row in taken.table.completions] == [3, 2]
    assert taken.table.completions[0][1] is table.completions[5][4]
