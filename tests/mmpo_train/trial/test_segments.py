"""Segments of online training: which steps and prompts they hold, and their folder."""

import numpy as np
import pytest

from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import TokenTable
from mmpo_train.storage.manifest import DamagedFolder
from mmpo_train.trial.segments import first_step, prompts_of_segment, read_segment, segment_of, write_segment


def test_four_hundred_and_fifty_steps_fall_into_segments_of_a_hundred_and_fifty():
    """The example of the MC-PO paper, Appendix B.1."""
    segments = [segment_of(step, 450, 3) for step in range(1, 451)]
    assert segments == [0] * 150 + [1] * 150 + [2] * 150
    assert [first_step(segment, 450, 3) for segment in range(3)] == [1, 151, 301]


@pytest.mark.parametrize(("steps", "segments"), [(7, 3), (128, 3), (2, 3), (10, 10), (5, 1)])
def test_segments_differ_by_at_most_one_step_and_begin_at_their_first(steps, segments):
    each = [segment_of(step, steps, segments) for step in range(1, steps + 1)]
    sizes = np.bincount(each, minlength=segments)
    assert sizes.max() - sizes.min() <= 1 and each == sorted(each)
    for segment in set(each):
        assert first_step(segment, steps, segments) == each.index(segment) + 1


def test_a_segment_asks_for_the_prompts_that_its_steps_see_and_no_others():
    config = replace(TrialConfig(), {"pairs_per_step": 4, "epochs": 1, "segments": 3})
    parts = [prompts_of_segment(config, 22, segment) for segment in range(3)]
    assert [len(part) for part in parts] == [8, 8, 6]  # six steps, the last of two prompts
    assert sorted(np.concatenate(parts)) == list(range(22))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_a_prompt_that_two_epochs_of_a_segment_see_is_asked_for_once():
    config = replace(TrialConfig(), {"pairs_per_step": 4, "epochs": 3, "segments": 2})
    assert [len(prompts_of_segment(config, 8, segment)) for segment in range(2)] == [8, 8]


def ids(*values):
    return np.array(values, dtype=np.int32)


def test_a_segment_comes_back_as_it_was_written(tmp_path):
    table = TokenTable((ids(1, 2), ids(3)), ((ids(4), ids(5, 6), ids(7)), (ids(8), ids(9))))
    ref_logps = np.array([[-1, -2, -3], [-4, -5, 0]], dtype=np.float32)
    write_segment(tmp_path / "segment", [2, 7], table, ref_logps, {"online/prompts": 2.0})
    segment = read_segment(tmp_path / "segment")
    assert segment.prompts.tolist() == [2, 7] and segment.metrics == {"online/prompts": 2.0}
    assert segment.scored.ref_logps.tolist() == ref_logps.tolist()
    assert [ids.tolist() for ids in segment.scored.table.prompts] == [[1, 2], [3]]
    assert [[ids.tolist() for ids in row] for row in segment.scored.table.completions] == [
        [[4], [5, 6], [7]],
        [[8], [9]],
    ]


def test_prompts_that_were_dropped_are_left_out_of_a_step(tmp_path):
    table = TokenTable((ids(1), ids(3)), ((ids(4), ids(5)), (ids(8), ids(9))))
    write_segment(tmp_path / "segment", [2, 7], table, np.zeros((2, 2), dtype=np.float32), {})
    segment = read_segment(tmp_path / "segment")
    assert segment.rows_of(np.array([7, 1, 9, 2])).tolist() == [1, 0]
    assert segment.rows_of(np.array([0, 8])).tolist() == []


def test_a_damaged_segment_is_not_read(tmp_path):
    table = TokenTable((ids(1),), ((ids(4), ids(5)),))
    write_segment(tmp_path / "segment", [0], table, np.zeros((1, 2), dtype=np.float32), {})
    (tmp_path / "segment" / "metrics.json").write_text("{ }")
    with pytest.raises(DamagedFolder):
        read_segment(tmp_path / "segment")
