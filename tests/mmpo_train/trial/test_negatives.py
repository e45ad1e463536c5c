"""Which completions a step trains on."""

from collections import Counter

import numpy as np
import pytest
import torch

from mmpo_train.objectives.ranking import ranking_nce_loss
from mmpo_train.trial.negatives import drawn_columns, weighted_columns

PROMPTS = np.arange(2000)
SIX = np.full(2000, 6)


def kernel(scores, negatives=1, seed=1, epoch=1, prompts=PROMPTS, counts=SIX, choice="kernel"):
    """`weighted_columns` with the same scores for every prompt."""
    return weighted_columns(np.tile(scores, (len(prompts), 1)), counts, negatives, choice, seed, epoch, prompts)


def test_the_kernel_draws_in_proportion_to_the_exponential_of_the_scores():
    """Weights 1 : 2 : 3 : 4 : 10 over the five candidates; the chosen one's score of 50 is no candidate's."""
    drawn = kernel(np.array([50.0, *np.log([1, 2, 3, 4, 10])], dtype=np.float32))
    counts = Counter(drawn[:, 1].tolist())
    expected = {column: 2000 * weight / 20 for column, weight in zip(range(1, 6), (1, 2, 3, 4, 10))}
    chi_squared = sum((counts[column] - wanted) ** 2 / wanted for column, wanted in expected.items())
    assert set(drawn[:, 0].tolist()) == {0} and set(counts) == set(expected)
    assert chi_squared < 18.5  # 0.1% of the chi-squared distribution with four degrees of freedom


def test_with_w_0_the_chosen_completion_is_drawn_by_its_weight_and_teaches_nothing():
    """Weights 2 : 1 : 1 : 2 : 1 : 3 over all six, the chosen one first. As its own negative its loss is log 2, without
    a gradient (Eq. 7)."""
    weights = (2, 1, 1, 2, 1, 3)
    scores = np.tile(np.log(weights).astype(np.float32), (2000, 1))
    drawn = weighted_columns(scores, SIX, 1, "kernel", 1, 1, PROMPTS, chosen_is_candidate=True)
    counts = Counter(drawn[:, 1].tolist())
    assert sum((counts[n] - 200 * weight) ** 2 / (200 * weight) for n, weight in enumerate(weights)) < 20.5
    largest = weighted_columns(scores[:1], SIX[:1], 2, "max", 1, 1, PROMPTS[:1], chosen_is_candidate=True)
    assert largest.tolist() == [[0, 5, 0]]
    logps = torch.tensor([[-3.0]], requires_grad=True)
    twice = torch.cat([logps, logps], dim=1)
    loss = ranking_nce_loss(twice, torch.full((1, 2), -4.0), 0.1, torch.ones(1, 2, dtype=torch.bool))[0]
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(2)) and logps.grad is not None and logps.grad.item() == 0


def test_several_draws_are_different_candidates_and_the_first_is_the_one_drawn_alone():
    scores = np.zeros(6, dtype=np.float32)
    one, three = kernel(scores), kernel(scores, negatives=3)
    assert (three[:, :2] == one).all()
    assert all(len(set(row)) == 4 for row in three.tolist())


def test_max_and_min_take_the_largest_and_the_smallest_weights():
    scores = np.array([9.0, 1, 3, -2, 3, 0], dtype=np.float32)
    few = {"prompts": PROMPTS[:3], "counts": SIX[:3]}
    assert kernel(scores, negatives=3, choice="max", **few).tolist() == [[0, 2, 4, 1]] * 3  # a tie: the earlier first
    assert kernel(scores, negatives=2, choice="min", **few).tolist() == [[0, 3, 5]] * 3


@pytest.mark.parametrize("choice", ["kernel", "max", "min"])
def test_with_one_candidate_the_three_choices_are_the_same(choice):
    """Section 5.3 of the MC-PO paper; Algorithm 1 read with the chosen completion among them would differ."""
    two = np.full(20, 2)
    columns = kernel(np.array([5.0, -5.0]), prompts=PROMPTS[:20], counts=two, choice=choice)
    assert columns.tolist() == [[0, 1]] * 20


def test_draws_depend_on_seed_epoch_and_prompt_and_on_nothing_else():
    scores = np.zeros(6, dtype=np.float32)
    whole = kernel(scores)
    parts = [kernel(scores, prompts=part, counts=SIX[: len(part)]) for part in (PROMPTS[1::2], PROMPTS[::2])]
    assert (parts[0] == whole[1::2]).all() and (parts[1] == whole[::2]).all()
    for other in (kernel(scores, seed=2), kernel(scores, epoch=2), kernel(scores, prompts=PROMPTS + 1)):
        assert 0.6 < (other[:, 1] != whole[:, 1]).mean() < 0.95  # four of five differ by chance


def test_prompts_with_fewer_candidates_use_what_they_have():
    counts = np.array([2, 4, 3])
    scores = np.array([[0, 1, 0, 0], [0, 1, 2, 3], [0, 1, 2, 0]], dtype=np.float32)
    columns = weighted_columns(scores, counts, 2, "max", 1, 1, np.arange(3))
    assert columns.tolist() == [[0, 1, -1], [0, 3, 2], [0, 2, 1]]
    drawn = drawn_columns(counts, 5, 1, np.arange(3))
    assert [sorted(row) for row in drawn.tolist()] == [[-1, -1, 0, 1], [0, 1, 2, 3], [-1, 0, 1, 2]]


def test_random_negatives_are_drawn_evenly_and_once_for_all_epochs():
    one, three = drawn_columns(SIX, 1, 7, PROMPTS), drawn_columns(SIX, 3, 7, PROMPTS)
    assert (three[:, :2] == one).all()  # RNCE with M = 1 is DPO on the same pairs
    counts = Counter(one[:, 1].tolist())
    assert set(counts) == {1, 2, 3, 4, 5} and all(abs(count - 400) < 90 for count in counts.values())
    assert all(len(set(row)) == 4 for row in three.tolist())
    assert (drawn_columns(SIX, 1, 8, PROMPTS) != one).any()
