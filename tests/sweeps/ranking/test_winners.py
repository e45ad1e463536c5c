import math

import pytest

from mmpo_train.errors import InputError
from sweeps.ranking.ranked import Candidate
from sweeps.ranking.reasons import listed
from sweeps.ranking.significance import sign_test, wilson_interval
from sweeps.ranking.winners import rank


def bits(right: int, of: int) -> tuple[int, ...]:
    """The first `right` of the pairs right."""
    return (1,) * right + (0,) * (of - right)


def trial(label: str, correct: tuple[int, ...], epoch: int = 1, state: str = "finished") -> Candidate:
    return Candidate(label=label, value=float(label), epoch=epoch, correct=correct, state=state)


def test_best_accuracy_wins_and_the_reason_says_by_how_much():
    """456 against 440 of 512 right, the 440 a subset: 16 discordant pairs all one way, p = 2 / 2^16 = 0.00003."""
    ranking = rank([trial("0.0001", bits(440, 512)), trial("0.0005", bits(456, 512)), trial("1e-5", bits(300, 512))])
    assert [row.candidate.label for row in ranking.rows] == ["0.0005", "0.0001", "1e-5"]
    assert ranking.reason == (
        "0.0005 wins: 456 of 512 pairs right (0.891), 3.1 points above the next (0.0001, p < 0.001)."
    )
    assert ranking.winner is ranking.rows[0]
    assert ranking.winner.p_value is None
    assert ranking.rows[1].p_value == pytest.approx(2 / 2**16, rel=1e-12)
    assert not ranking.rows[1].near_winner


def test_trials_within_chance_of_the_winner_are_named():
    """One pair apart: p = 2 * C(1,0) / 2 = 1. Six apart: p = 2 / 2^6 = 0.031."""
    ranking = rank([trial("0.1", bits(80, 100)), trial("0.2", bits(79, 100)), trial("0.3", bits(74, 100))])
    assert [row.near_winner for row in ranking.rows] == [False, True, False]
    assert ranking.reason == (
        "0.1 wins: 80 of 100 pairs right (0.800), 1.0 point above the next (0.2, p = 1.00). "
        "At 5% it does not differ significantly from 0.2."
    )


def test_ties_go_to_the_first_in_the_grid_and_are_said_to_be_ties():
    ranking = rank([trial("0.3", bits(7, 10)), trial("0.1", bits(8, 10)), trial("0.2", bits(8, 10))])
    assert ranking.winner is not None
    assert ranking.winner.candidate.label == "0.1"
    assert ranking.reason == (
        "0.1 ties with 0.2 at 8 of 10 pairs right (0.800): taken as first in the grid. "
        "At 5% it does not differ significantly from 0.3."
    )


def test_a_trial_stands_for_its_best_epoch_and_the_earlier_of_equals():
    epochs = [trial("0.1", bits(right, 10), epoch) for epoch, right in ((3, 8), (1, 6), (2, 8))]
    ranking = rank([*epochs, trial("0.2", bits(7, 10), 5)])
    assert [(row.candidate.label, row.candidate.epoch) for row in ranking.rows] == [("0.1", 2), ("0.2", 5)]


def test_trials_without_a_result_come_last_and_cannot_win():
    """The diverged trial had scored 10 of 10 in the epoch before."""
    broken = [trial("0.1", bits(10, 10), 1), trial("0.1", (), 2, "diverged"), trial("0.2", (), 0, "failed")]
    ranking = rank([*broken, trial("0.3", bits(2, 10))])
    assert [row.candidate.label for row in ranking.rows] == ["0.3", "0.1", "0.2"]
    assert ranking.rows[1].accuracy is None
    assert ranking.reason == "0.3 wins: 2 of 10 pairs right (0.200), the only trial with a result."


def test_nobody_wins_when_all_trials_diverged_or_failed():
    ranking = rank([trial("0.1", (), state="diverged"), trial("0.2", (), state="failed")])
    assert ranking.winner is None
    assert ranking.reason == "No winner: no trial has a result (0.1 diverged, 0.2 failed)."
    assert rank([]).winner is None


def test_trials_scored_on_different_pairs_are_refused():
    with pytest.raises(InputError, match=r"0\.1 on 10, 0\.2 on 9.*same pairs"):
        rank([trial("0.1", bits(5, 10)), trial("0.2", bits(5, 9))])
    with pytest.raises(InputError, match=r"epoch 1 on 10, 0\.1 epoch 2 on 9"):
        rank([trial("0.1", bits(5, 10), 1), trial("0.1", bits(5, 9), 2)])
    with pytest.raises(InputError, match="no validation pairs"):
        rank([trial("0.1", ())])


def test_accuracy_is_the_share_of_right_pairs():
    (row,) = rank([trial("0.1", (1, 0, 0, 1, 1, 1, 0, 0))]).rows
    assert row.accuracy is not None
    assert math.isclose(row.accuracy, 0.5)
    assert row.interval == wilson_interval(4, 8)


def seeded(label: str, *seeds: tuple[int, ...], epoch: int = 1) -> list[Candidate]:
    """A point's trials with seeds 42, 43, …"""
    return [
        Candidate(label=label, value=float(label), epoch=epoch, seed=42 + number, correct=correct)
        for number, correct in enumerate(seeds)
    ]


def test_over_seeds_a_point_is_mean_and_deviation_at_the_epoch_that_is_best_on_average():
    """Epoch 1: 6 and 6 of 10, epoch 2: 9 and 5. Mean 0.6 against 0.7; deviation of 0.9 and 0.5 is 0.4 / sqrt(2)."""
    early, late = seeded("0.1", bits(6, 10), bits(6, 10)), seeded("0.1", bits(9, 10), bits(5, 10), epoch=2)
    [row] = rank([*early, *late]).rows
    assert row.accuracy == pytest.approx(0.7) and row.candidate.epoch == 2
    assert row.deviation == pytest.approx(0.4 / 2**0.5) and row.shares == (0.9, 0.5)
    assert row.interval == wilson_interval(7, 10)
    assert row.bar == pytest.approx((0.7 - 0.4 / 2**0.5, 0.7 + 0.4 / 2**0.5))


def test_a_pair_counts_once_however_many_seeds_scored_it():
    """Ours right on pairs 1 to 4 with all three seeds, theirs on none: four pairs one way, p = 2 / 2^4, not 2 / 2^12.
    The seeds agree to the last bit, so that the t-test has nothing to add."""
    [_, other] = rank([*seeded("0.1", *[bits(4, 8)] * 3), *seeded("0.2", *[bits(0, 8)] * 3)]).rows
    assert other.p_value == 2 / 2**4


def test_a_lucky_seed_does_not_make_a_point_distinct():
    """Differences of 0.6, 0 and 0: t = 0.2 / (0.3464 / sqrt(3)) = 1, p = 0.4226; over pairs 60 fall one way."""
    ours = seeded("0.1", bits(80, 100), bits(20, 100), bits(20, 100))
    ranking = rank([*ours, *seeded("0.2", *[bits(20, 100)] * 3)])
    assert sign_test([1] * 60, [0] * 60) < 1e-9
    assert ranking.rows[1].p_value == pytest.approx(0.42265, abs=1e-5) and ranking.rows[1].near_winner
    assert ranking.reason == (
        "0.1 wins: 0.400 (±0.346 over 3 seeds) of 100 pairs right, 20.0 points above the next (0.2, p = 0.42). "
        "A tie within noise: 0.2."
    )


def test_steady_differences_over_seeds_are_distinct():
    """0.30, 0.31 and 0.29: t = 0.3 / (0.01 / sqrt(3)) = 52, p < 0.001."""
    ours = seeded("0.1", bits(80, 100), bits(81, 100), bits(79, 100))
    ranking = rank([*ours, *seeded("0.2", *[bits(50, 100)] * 3)])
    assert ranking.rows[1].p_value is not None and ranking.rows[1].p_value < 0.001
    assert "tie" not in ranking.reason


def test_a_point_of_which_one_seed_diverged_has_no_result():
    broken = [*seeded("0.1", bits(9, 10)), Candidate(label="0.1", value=0.1, seed=43, state="diverged")]
    ranking = rank([*broken, *seeded("0.2", bits(5, 10), bits(5, 10))])
    assert [(row.candidate.label, row.accuracy) for row in ranking.rows] == [("0.2", 0.5), ("0.1", None)]


def test_a_sentence_names_a_dozen_points_and_counts_the_others():
    labels = [f"p{number}" for number in range(1000)]
    assert listed(labels[:3]) == "p0, p1 and p2"
    assert listed(labels[:13]).endswith("p11 and p12")
    assert listed(labels).endswith("p10, p11 and 988 others")
