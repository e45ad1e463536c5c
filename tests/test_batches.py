"""Order, groups and passes: what is seen when, and that the machine has no say in it."""

import numpy as np
import pytest
import torch

from mmpo_train.batches import collate, consecutive, epoch_order, group_rewards, plan_passes
from mmpo_train.tokens import TokenTable


def ids(*values):
    return np.array(values, dtype=np.int32)


def lengths_of(count, seed=0):
    return np.random.default_rng(seed).integers(3, 60, count)


def test_an_epochs_order_is_a_permutation():
    assert sorted(epoch_order(1000, seed=42, epoch=1)) == list(range(1000))


def test_order_depends_on_seed_and_epoch_only():
    first = epoch_order(1000, 42, 1)
    np.random.seed(99)
    torch.manual_seed(99)
    assert np.array_equal(epoch_order(1000, 42, 1), first)
    others = [epoch_order(1000, 42, 2), epoch_order(1000, 43, 1), epoch_order(1000, 1, 42)]
    assert not any(np.array_equal(other, first) for other in others)


def test_order_of_a_seed_stays_what_it_was():
    """Pinned: another order is another result under the same digest."""
    assert epoch_order(8, seed=42, epoch=1).tolist() == [0, 4, 6, 1, 2, 7, 3, 5]


def test_steps_and_groups_are_consecutive_and_the_last_is_partial():
    order = epoch_order(10, 0, 1)
    pieces = list(consecutive(order, 4))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert np.array_equal(np.concatenate(pieces), order)


def test_the_papers_epoch_has_575_steps_and_drops_nothing():
    """73,494 pairs / 128 = 574.2: the last step has 22 pairs, the last group of 8 has 6."""
    steps, groups = ([len(piece) for piece in consecutive(np.arange(73_494), size)] for size in (128, 8))
    assert (len(steps), steps[-1]) == (575, 22) and (len(groups), groups[-1]) == (9187, 6)


def test_rewards_are_computed_over_consecutive_pairs_of_the_order():
    """Order 4 2 | 0 1 | 3 in groups of two; the rewards function here returns each group's sum for every member."""
    ref_logps = np.array([[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]], dtype=np.float32)
    present = np.ones((5, 2), dtype=bool)
    rewards = group_rewards(
        ref_logps, present, np.array([4, 2, 0, 1, 3]), 2, lambda group, present: group.sum().expand(group.shape)
    )
    assert rewards.tolist() == [[33, 33], [33, 33], [88, 88], [44, 44], [88, 88]]


def test_objectives_without_rewards_get_zeros():
    ones = np.ones((3, 2), dtype=np.float32)
    assert not group_rewards(ones, ones > 0, np.arange(3), 2, None).any()


def test_rewards_hear_which_completions_there_are():
    ones, present = np.ones((2, 3), dtype=np.float32), np.array([[True, True, False], [True, True, True]])
    rewards = group_rewards(ones, present, np.array([1, 0]), 1, lambda group, present: group * present)
    assert rewards.tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("tokens_per_pass", [1, 100, 500, 100_000])
@pytest.mark.parametrize("pairs", [1, 3, 16, 50])
def test_passes_cover_each_pair_once_and_come_out_even(pairs, tokens_per_pass, workers):
    lengths = lengths_of(100)
    chosen = np.random.default_rng(1).permutation(100)[:pairs]
    passes = plan_passes(chosen, lengths, np.full(100, 2), tokens_per_pass, workers)
    assert sorted(np.concatenate(passes)) == sorted(chosen)
    assert len(passes) % workers == 0
    for some in passes:
        assert len(some) <= 1 or len(some) * 2 * lengths[some].max() <= tokens_per_pass


def test_fewer_pairs_than_workers_leave_some_workers_an_empty_pass():
    passes = plan_passes([5, 6, 7], lengths_of(10), np.full(10, 2), 10_000, workers=8)
    assert sorted(len(some) for some in passes) == [0] * 5 + [1] * 3


def test_one_full_pass_is_split_among_workers_rather_than_left_to_one():
    assert [len(some) for some in plan_passes(np.arange(8), np.full(8, 10), np.full(8, 2), 10_000, workers=4)] == [
        2,
        2,
        2,
        2,
    ]


def test_passes_hold_pairs_of_like_length():
    """Lengths 10 and 100 alternate; 800 tokens hold 4 long pairs of two completions, or 40 short ones."""
    lengths = np.tile([10, 100], 8)
    passes = plan_passes(np.arange(16), lengths, np.full(16, 2), 800)
    assert [sorted(set(lengths[some])) for some in passes] == [[100], [100], [10]]


def test_collated_pass_worked_by_hand():
    """Two prompts with two completions each. The token at position p is predicted by the output at p - 1."""
    table = TokenTable(
        prompts=(ids(1, 2, 3), ids(4)),
        completions=((ids(5, 6), ids(7)), (ids(8), ids(9, 10, 11))),
    )
    one = collate(table, np.array([1, 0]))
    assert one.input_ids.tolist() == [[4, 8, 0, 0, 0], [4, 9, 10, 11, 0], [1, 2, 3, 5, 6], [1, 2, 3, 7, 0]]
    assert one.rows.tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert one.positions.tolist() == [0, 0, 1, 2, 2, 3, 2]
    assert one.targets.tolist() == [8, 9, 10, 11, 5, 6, 7]
    assert one.completions.tolist() == [0, 1, 1, 1, 2, 2, 3] and one.completion_count == 4
    assert {part.dtype for part in one if isinstance(part, torch.Tensor)} == {torch.int64}


def test_a_row_with_a_shared_prompt_worked_by_hand():
    """[1 2 3 | 5 6 | 7] and [4 | 8 | 9 10 11]: a completion's first token is predicted by the prompt's last one."""
    table = TokenTable(
        prompts=(ids(1, 2, 3), ids(4)),
        completions=((ids(5, 6), ids(7)), (ids(8), ids(9, 10, 11))),
    )
    one = collate(table, np.array([0, 1]), share_prompts=True)
    assert one.input_ids.tolist() == [[1, 2, 3, 5, 6, 7], [4, 8, 9, 10, 11, 0]]
    assert one.segments.tolist() == [[0, 0, 0, 1, 1, 2], [0, 1, 2, 2, 2, -1]]
    assert one.position_ids.tolist() == [[0, 1, 2, 3, 4, 3], [0, 1, 1, 2, 3, 0]]
    assert one.rows.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert one.positions.tolist() == [2, 3, 2, 0, 0, 2, 3]
    assert one.targets.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert one.completions.tolist() == [0, 0, 1, 2, 3, 3, 3]


def test_passes_count_the_rows_that_each_prompt_really_has():
    """Rows of 10 tokens, 60 of them fit: prompts with 4, 2 | 5, 1 | 6 completions."""
    passes = plan_passes(np.arange(5), np.full(5, 10), np.array([4, 2, 5, 1, 6]), 60)
    assert [some.tolist() for some in passes] == [[0, 1], [2, 3], [4]]


def test_more_than_two_completions_stay_with_their_prompt():
    table = TokenTable(prompts=(ids(1), ids(2)), completions=((ids(3), ids(4), ids(5)), (ids(6), ids(7), ids(8))))
    one = collate(table, np.array([1, 0]))
    assert one.input_ids.tolist() == [[2, 6], [2, 7], [2, 8], [1, 3], [1, 4], [1, 5]]
