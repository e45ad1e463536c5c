"""Who validates, which completions stay, and the digest of both."""

import subprocess
from collections import Counter

import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.data.preferences import load_preferences
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.selection import as_pairs
from tests.support.preference_files import load_file, pair, pairs, refused_rows, seven, write

USER = Message("user", "2 + 2?")


def test_as_pairs_draws_every_lower_ranked_completion_about_equally():
    """600 draws out of three: 200 each expected, standard deviation 12; 150 to 250 is four of them."""
    drawn = Counter()
    for number in range(600):
        example = PreferenceExample((Message("user", str(number)),), ("a", "b", "c", "d"), "x", number)
        chosen, rejected = as_pairs(example, seed=1).completions
        assert chosen == "a"
        drawn[rejected] += 1
    assert set(drawn) == {"b", "c", "d"}
    assert all(150 < count < 250 for count in drawn.values())


def test_as_pairs_depends_on_seed_and_content_and_not_on_the_source():
    examples = [
        PreferenceExample((Message("user", str(number)),), tuple("abcdefgh"), "x", number) for number in range(20)
    ]
    moved = [
        PreferenceExample(example.prompt, example.completions, "elsewhere", example.row + 1) for example in examples
    ]
    drawn = [as_pairs(example, seed=1).completions for example in examples]
    assert [as_pairs(example, seed=1).completions for example in moved] == drawn
    assert [as_pairs(example, seed=2).completions for example in examples] != drawn


def test_as_pairs_leaves_a_pair_alone():
    example = PreferenceExample((USER,), ("4", "5"), "x", 1)
    assert as_pairs(example, seed=1) is example


def test_no_prompt_is_on_both_sides_of_the_hold_out(tmp_path):
    rows = [pair(number % 40, chosen=f"yes {number}") for number in range(120)]
    data = load_file(tmp_path, rows)
    held = {example.prompt for example in data.validation}
    assert len(held) == 4
    assert len(data.validation) == data.audit.held_out == 12
    assert not held & {example.prompt for example in data.train}


def test_hold_out_depends_on_the_seed_and_on_nothing_else(tmp_path):
    rows = pairs(50)
    first = load_file(tmp_path, rows)
    assert load_file(tmp_path, rows).validation == first.validation
    held = {example.prompt for example in first.validation}
    assert {example.prompt for example in load_file(tmp_path, rows[::-1]).validation} == held
    assert {example.prompt for example in load_file(tmp_path, rows, seed=43).validation} != held


def test_hold_out_takes_at_least_one_prompt_and_none_when_asked(tmp_path):
    assert len(load_file(tmp_path, pairs(3)).validation) == 1
    assert load_file(tmp_path, pairs(3), validation_share=0).validation == ()
    assert len(load_file(tmp_path, pairs(2), validation_share=0.9).train) == 1
    assert "all examples share one prompt" in refused_rows(tmp_path, [pair(1), pair(1, chosen="sure")])


def test_fingerprint_knows_the_content_and_not_the_path(tmp_path):
    rows = pairs(10)
    plain = load_preferences([write(tmp_path / "one.json", rows)]).fingerprint
    assert load_preferences([write(tmp_path / "two.jsonl", rows)]).fingerprint == plain
    changed = [*rows[:9], pair(9, rejected="no.")]
    other = {
        load_file(tmp_path, changed).fingerprint,
        load_file(tmp_path, rows[::-1]).fingerprint,
        load_file(tmp_path, rows, validation_share=0.5).fingerprint,
    }
    assert len(other | {plain}) == 4


def test_fingerprint_knows_on_which_side_an_example_is(tmp_path):
    rows = pairs(3)
    prints = set()
    for name, cut in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", rows[:cut])
        write(tmp_path / name / "test.jsonl", rows[cut:])
        prints.add(load_preferences([str(tmp_path / name)]).fingerprint)
    assert len(prints) == 2


def test_fingerprint_is_sha256_of_one_json_line_per_example(tmp_path):
    """Recomputed with the shell's sha256sum over the lines as documented."""
    data = load_file(tmp_path, [pair(1), pair(2, chosen="ja, schön")], validation_share=0)
    lines = '["train",[["user","question 1"]],["yes","no"]]\n["train",[["user","question 2"]],["ja, schön","no"]]\n'
    golden = subprocess.run(["sha256sum"], input=lines.encode(), capture_output=True, check=True)
    assert data.fingerprint == golden.stdout.decode().split()[0]


@pytest.mark.parametrize(
    ("count", "kept"), [(0, "acdefg"), (1, "ag"), (2, "afg"), (3, "aefg"), (4, "adefg"), (5, "acdefg"), (6, "acdefg")]
)
def test_the_lowest_ranked_negatives_of_train_prompts_are_kept(tmp_path, count, kept):
    """Validation is on the same pairs whatever their number; b, of rank 2, is left out of all ten."""
    rows = [seven(number=number) for number in range(10)]
    data = load_file(tmp_path, rows, worst_negatives=count)
    assert {example.completions for example in data.train} == {tuple(kept)}
    assert data.validation == load_file(tmp_path, rows).validation
    assert [len(example.completions) for example in data.validation] == [2]
    assert data.audit.answers_left_out == 10 + 9 * (6 - len(kept))
    assert f"{data.audit.answers_left_out} ranked answers left out" in data.audit.lines()


def test_of_answers_tied_at_the_cut_the_later_are_kept_and_short_sets_stay_whole(tmp_path):
    rows = [seven((1, 3, 3, 3)), seven((1, 3), number=1), pair(2)]
    data = load_file(tmp_path, rows, worst_negatives=2, validation_share=0)
    assert [example.completions for example in data.train] == [("a", "c", "d"), ("a", "b"), ("yes", "no")]


def test_drawn_validation_pairs_are_part_of_the_fingerprint(tmp_path):
    """The splits are named, so the seed draws nothing but the rejected completions."""
    write(tmp_path / "train.jsonl", pairs(3))
    write(tmp_path / "test.jsonl", [seven(number=number) for number in range(20)])
    one, two = (load_preferences([str(tmp_path)], seed=seed) for seed in (1, 2))
    assert one.train == two.train and one.validation != two.validation
    assert one.fingerprint != two.fingerprint
