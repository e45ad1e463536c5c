"""Points that are the same model, or are judged by different scores: what is compared, said and chosen."""

import dataclasses

import pytest

from mmpo_train.errors import InputError
from mmpo_train.metric_names import HARNESS_MEAN, LOGRATIO_ACCURACY, POLICY_ACCURACY
from mmpo_train.tables import for_terminal
from mmpo_train.terminal import console
from sweeps.plan.stages import Stage
from sweeps.ranking.measures import measure_of
from sweeps.ranking.ranked import Candidate
from sweeps.ranking.winners import rank
from sweeps.ranking.wording import note, ranking_table, sentences

PAIRS = 200


def point(label, right, *, score="one", training="", start=None, value=None, **extra):
    metrics = {POLICY_ACCURACY: 0.8, LOGRATIO_ACCURACY: 0.7} | extra
    about = {"digest": label, "metrics": metrics}
    correct = (1,) * right + (0,) * (PAIRS - right)
    value = float(label) if value is None else value
    own = {"score": score, "training": training, "start": start}
    return Candidate(label=label, value=value, epoch=1, correct=correct, extra=about, **own)


def stage(name="stage3_margin", values=(0.0, 0.5, 1.0), axis="r_eps"):
    return Stage(name=name, title="Stage", axis=axis, run_name="{}", values=values)


def said(ranking, one=None):
    return " ".join(sentences(one or stage(), ranking))


SAME = [
    point("0.0", 100, score="a", training="t", start=0.4),
    point("0.5", 120, score="b", training="t", start=0.5),
    point("1.0", 190, score="c", training="t", start=0.9),
]


def test_points_of_one_model_have_no_winner_by_significance_and_the_choice_is_one_of_score():
    ranking = rank(SAME)
    assert ranking.winner is not None and ranking.winner.candidate.label == "1.0"
    assert ranking.is_one_model and ranking.scores_differ
    assert all(row.p_value is None and not row.near_winner for row in ranking.rows)
    text = said(ranking)
    assert text.startswith("These 3 points are the same model; only the score differs.")
    assert (
        "takes 1.0, whose own score gets most pairs right (0.950, the starting model 0.900): a choice of score." in text
    )
    assert "What can be compared is equal for all: by plain log-probabilities 0.800" in text
    assert not any(word in text for word in ("wins", "p <", "p =", "might do better", "At 5%"))


def test_different_models_by_different_scores_have_no_winner_where_none_must_be_chosen():
    """Length normalisation scores 0.986 before training: its 0.982 is a loss, and no 9 points above the next."""
    full = point("full", 178, value="full", score="a", training="x", start=0.8)
    norm = point("no norm", 150, value="no norm", score="b", training="x", start=0.7)
    length = point("len norm", 196, value="len norm", score="c", training="y", start=0.986, **{POLICY_ACCURACY: 0.9})
    ranking = rank([full, norm, length], must_choose=False)
    assert ranking.winner is None and len(ranking.results) == 3
    assert [row.candidate.label for row in ranking.rows] == ["full", "no norm", "len norm"], "the grid's order"
    assert ranking.rows[2].gain == pytest.approx(-0.006)
    text = said(ranking, stage("ablations", ("full", "no norm", "len norm"), "variant"))
    assert "compares no two points" in text and "0.700 to 0.986" in text and "full and no norm: the same model" in text
    assert "plain log-probabilities len norm (0.900)" in text and "wins" not in text


def test_a_line_beyond_the_edge_is_drawn_only_where_the_edge_beats_the_point_beside_it():
    beyond = "one beyond it might do better"
    clear = [point("0.0", 100), point("0.5", 120), point("1.0", 190)]
    assert beyond in said(rank(clear))
    assert beyond not in said(rank([*clear[:1], point("0.5", 190), clear[2]])), "an exact tie"
    assert beyond not in said(rank([*clear[:1], point("0.5", 188), clear[2]])), "within noise"
    assert beyond in said(rank([point("0.0", 188), *clear[1:]])), "the other end ties, the point beside it does not"


def test_with_a_measure_that_compares_the_same_points_have_a_winner_by_it():
    given = [
        dataclasses.replace(one, measure=share, training=one.label)
        for one, share in zip(SAME, (0.6, 0.9, 0.7), strict=True)
    ]
    ranking = rank(given, by=HARNESS_MEAN, must_choose=False)
    assert ranking.winner is not None and ranking.winner.candidate.label == "0.5" and not ranking.scores_differ
    assert "0.5 wins: harness/mean_accuracy 0.9000, 0.2000 above the next (1.0; not tested)." in said(ranking)
    assert ranking.rows[0].interval is None
    known = rank([dataclasses.replace(one, error=0.06) for one in given], by=HARNESS_MEAN)
    # 0.2 / (0.06 sqrt(2)) = 2.357 standard errors: p = 0.0184; 0.3 are 3.536: p = 0.0004
    assert [row.p_value for row in known.rows[1:]] == pytest.approx([0.01842, 0.000407], rel=1e-3)
    assert known.rows[0].interval == pytest.approx((0.7824, 1.0176)) and "(1.0, p = 0.018)" in said(known)
    shares = rank(given, by=POLICY_ACCURACY)
    assert shares.rows[0].interval == pytest.approx((0.8506, 0.9343), abs=1e-3), "Wilson's of 180 of 200"


def test_one_model_by_a_measure_that_compares_is_taken_as_first_in_the_grid():
    given = [dataclasses.replace(one, measure=0.7, error=0.1) for one in SAME]
    text = said(rank(given, by=POLICY_ACCURACY))
    assert text.startswith("These 3 points are the same model. 0.0 is taken as first in the grid")


@pytest.mark.parametrize("grid", [SAME, [point("0.1", 100), point("0.5", 190)]], ids=["scores differ", "one score"])
def test_a_terminal_of_80_columns_shows_what_can_be_compared(grid):
    table = for_terminal(ranking_table(stage(), rank(grid), {}, {}, 80))
    with console.capture() as captured:
        console.print(table, width=80)
    printed = captured.get()
    assert "policy" in printed and "log-ratio" in printed and "0.8000" in printed and "0.7000" in printed
    assert ("start" in printed and "gain" in printed) == (grid is SAME)
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_the_note_shows_each_points_own_start_and_gain():
    text = note(stage(), rank(SAME), {}, [], "", "")
    assert "own reward accuracy" in text and "+0.0500" in text and "0.9000" in text


def test_measures_are_named_as_metrics_and_need_their_evaluation():
    assert measure_of("reward_accuracy", ()) == measure_of("validation/reward_accuracy", ()) == ""
    assert measure_of("policy_accuracy", ()) == POLICY_ACCURACY
    assert measure_of("alpaca/lc_win_rate", ("reward", "alpaca")) == "alpaca/lc_win_rate"
    assert measure_of("harness/piqa/acc", ("harness",)) == "harness/piqa/acc"
    with pytest.raises(InputError, match="needs the evaluation harness: add --set evaluations=reward,alpaca,harness"):
        measure_of("harness/mean_accuracy", ("reward", "alpaca"))
    with pytest.raises(InputError, match="is unknown; did you mean 'policy_accuracy'"):
        measure_of("policy_acuracy", ())
    with pytest.raises(InputError, match="is unknown"):
        measure_of("train/loss", ())
