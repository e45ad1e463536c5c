"""Order, groups and passes: what is seen when, and that the machine has no say in it."""

import numpy as np
import pytest
import torch

from mmpo_train.config import LAYOUTS
from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.batches import collate, consecutive, epoch_order, group_rewards, plan_passes, tokens_in


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


def table_of(prompts, completions):
    """Token ids do not matter: prompts and completions of so many tokens."""
    one = lambda tokens: np.ones(tokens, dtype=np.int32)  # noqa: E731
    return TokenTable(tuple(map(one, prompts)), tuple(tuple(map(one, row)) for row in completions))


@pytest.fixture(scope="module")
def hundred():
    """Prompts of 1 to 40 tokens with two completions of 1 to 60."""
    random = np.random.default_rng(0)
    return table_of(random.integers(1, 41, 100), random.integers(1, 61, (100, 2)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("tokens_per_pass", [1, 100, 500, 100_000])
@pytest.mark.parametrize("pairs", [1, 3, 16, 50])
def test_passes_cover_each_pair_once_and_come_out_even(hundred, pairs, tokens_per_pass, workers, layout):
    chosen = np.random.default_rng(1).permutation(100)[:pairs]
    passes = plan_passes(hundred, chosen, tokens_per_pass, workers, layout)
    assert sorted(np.concatenate(passes)) == sorted(chosen)
    assert len(passes) % workers == 0
    for some in passes:
        padded = len(some) * 2 * hundred.longest[some].max(initial=0)
        tokens = padded if layout == "padded" else tokens_in(hundred, layout)[some].sum()
        assert len(some) <= 1 or tokens <= tokens_per_pass


@pytest.mark.parametrize("workers", [1, 4])
def test_packed_passes_are_as_few_as_fit_and_of_nearly_equal_size(hundred, workers):
    """About 8,000 tokens; 1,000 a pass."""
    tokens = tokens_in(hundred, "shared")
    passes = plan_passes(hundred, np.arange(100), 1000, workers, "shared")
    loads = [tokens[some].sum() for some in passes]
    fewest = -(-tokens.sum() // 1000)
    assert len(passes) == -(-fewest // workers) * workers
    assert max(loads) < 1.1 * min(loads) and loads == sorted(loads, reverse=True)


def test_a_row_without_padding_has_the_tokens_of_prompts_and_completions():
    table = table_of([10, 3], [[1, 2, 3], [4]])
    assert tokens_in(table, "packed").tolist() == [36, 7] and tokens_in(table, "shared").tolist() == [16, 7]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fewer_pairs_than_workers_leave_some_workers_an_empty_pass(hundred, layout):
    passes = plan_passes(hundred, [5, 6, 7], 10_000, 8, layout)
    assert sorted(len(some) for some in passes) == [0] * 5 + [1] * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_full_pass_is_split_among_workers_rather_than_left_to_one(layout):
    passes = plan_passes(table_of([5] * 8, [[5, 5]] * 8), np.arange(8), 10_000, 4, layout)
    assert [len(some) for some in passes] == [2, 2, 2, 2]


def test_padded_passes_hold_pairs_of_like_length():
    """Lengths 10 and 100 alternate; 800 tokens hold 4 long pairs of two completions, or 40 short ones."""
    lengths = np.tile([10, 100], 8)
    passes = plan_passes(table_of([5] * 16, [[length - 5] * 2 for length in lengths]), np.arange(16), 800)
    assert [sorted(set(lengths[some])) for some in passes] == [[100], [100], [10]]


def test_collated_pass_worked_by_hand():
    """Two prompts with two completions each. The token at position p is predicted by the output at p - 1."""
    table = TokenTable(prompts=(ids(1, 2, 3), ids(4)), completions=((ids(5, 6), ids(7)), (ids(8), ids(9, 10, 11))))
    one = collate(table, np.array([1, 0]))
    assert one.input_ids.tolist() == [[4, 8, 0, 0, 0], [4, 9, 10, 11, 0], [1, 2, 3, 5, 6], [1, 2, 3, 7, 0]]
    assert one.places.tolist() == [0, 5, 6, 7, 12, 13, 17]
    assert one.targets.tolist() == [8, 9, 10, 11, 5, 6, 7]
    assert one.completions.tolist() == [0, 1, 1, 1, 2, 2, 3] and one.completion_count == 4
    assert {part.dtype for part in one if isinstance(part, torch.Tensor)} == {torch.int64}


def test_packed_rows_worked_by_hand():
    """[1 2 3 | 5 6 | 7 | 4 | 8 | 9 10 11]: a completion's first token is predicted by its prompt's last one."""
    table = TokenTable(prompts=(ids(1, 2, 3), ids(4)), completions=((ids(5, 6), ids(7)), (ids(8), ids(9, 10, 11))))
    shared = collate(table, np.array([0, 1]), "shared")
    assert shared.input_ids.tolist() == [[1, 2, 3, 5, 6, 7, 4, 8, 9, 10, 11]]
    assert shared.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 1, 2, 3]]
    assert shared.places.tolist() == [2, 3, 2, 6, 6, 8, 9]
    assert shared.packing.pieces == (3, 2, 1, 1, 1, 3)
    assert shared.packing.spans == ((0, 2, 0, 0), (2, 3, 0, 1), (3, 5, 0, 0), (5, 6, 3, 4))
    assert shared.packing.query_ends.tolist() == [0, 5, 6, 8, 11]
    assert shared.packing.key_ends.tolist() == [0, 5, 9, 11, 15]
    assert shared.packing.key_places.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 6, 8, 9, 10]
    assert (shared.packing.longest_query, shared.packing.longest_key) == (5, 5)
    packed = collate(table, np.array([0, 1]), "packed")
    assert packed.input_ids.tolist() == [[1, 2, 3, 5, 6, 1, 2, 3, 7, 4, 8, 4, 9, 10, 11]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3]]
    assert packed.places.tolist() == [2, 3, 7, 9, 11, 12, 13]
    assert packed.packing.key_places is None and packed.packing.query_ends.tolist() == [0, 5, 9, 11, 15]
    for one in (shared, packed):
        assert one.targets.tolist() == [5, 6, 7, 8, 9, 10, 11]
        assert one.completions.tolist() == [0, 0, 1, 2, 3, 3, 3]
        assert (one.completion_count, one.prompt_count) == (4, 2)


def test_padded_passes_count_the_rows_that_each_prompt_really_has():
    """Rows of 10 tokens, 60 of them fit: prompts with 4, 2 | 5, 1 | 6 completions."""
    passes = plan_passes(table_of([4] * 5, [[6] * rows for rows in (4, 2, 5, 1, 6)]), np.arange(5), 60)
    assert [some.tolist() for some in passes] == [[0, 1], [2, 3], [4]]


def test_more_than_two_completions_stay_with_their_prompt():
    table = TokenTable(prompts=(ids(1), ids(2)), completions=((ids(3), ids(4), ids(5)), (ids(6), ids(7), ids(8))))
    one = collate(table, np.array([1, 0]))
    assert one.input_ids.tolist() == [[2, 6], [2, 7], [2, 8], [1, 3], [1, 4], [1, 5]]
