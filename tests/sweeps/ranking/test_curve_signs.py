"""Which signs a stage is told about, and that each has its section."""

import re

from sweeps.ranking.curve_signs import CHOSEN, LONGER, PAGE, SATURATED, SHORTER, signs
from sweeps.ranking.ranked import Candidate
from sweeps.ranking.winners import rank
from tests.support.workers import REPOSITORY


def candidate(label: str, epoch: int, right: int = 3, **metrics: float) -> Candidate:
    named = {"chosen": CHOSEN, "saturated": SATURATED, "longer": LONGER, "shorter": SHORTER}
    scores = {named[name]: value for name, value in metrics.items()}
    return Candidate(
        label=label, value=1.0, epoch=epoch, correct=(1,) * right + (0,) * (5 - right), extra={"metrics": scores}
    )


def told(*candidates: Candidate) -> list[str]:
    return signs(candidates, rank(candidates).winner)


def test_a_winner_without_a_sign_is_told_nothing():
    fine = {"saturated": 0.4, "longer": 0.8, "shorter": 0.7}
    assert told(candidate("0.1", 1, chosen=-90, **fine), candidate("0.1", 2, 4, chosen=-80, **fine)) == []
    assert signs([], None) == []


def test_the_winners_falling_chosen_log_probability_is_told_and_a_losers_is_not():
    falls = [candidate("0.1", 1, chosen=-80), candidate("0.1", 2, 4, chosen=-95.5)]
    [sign] = told(*falls)
    assert "-80.0 to -95.5 nats" in sign
    assert told(*falls, candidate("0.5", 1, 5, chosen=-70), candidate("0.5", 2, 5, chosen=-60)) == []


def test_saturation_and_length_bias_are_told_with_their_numbers():
    both = told(candidate("0.1", 1, saturated=0.95, longer=0.9, shorter=0.6))
    assert both[0].startswith("95% of the winner's pairs are saturated")
    assert "90% of the pairs whose chosen completion is the longer one and on 60% of the others" in both[1]


def test_points_with_the_same_log_probabilities_are_told_to_be_one_model():
    same = [candidate("0.1", 1, 2, chosen=-80.0), candidate("0.5", 1, 4, chosen=-80.0002)]
    [sign] = told(*same)
    assert "same model" in sign
    assert told(*same, candidate("0.9", 1, 1, chosen=-79.0)) == []


def test_every_sign_links_to_a_section_that_is_there():
    page = (REPOSITORY / PAGE).read_text()
    sections = {
        re.sub(r"[^a-z -]", "", line[3:].lower()).replace(" ", "-") for line in re.findall(r"^## .*", page, re.M)
    }
    text = (REPOSITORY / "sweeps" / "ranking" / "curve_signs.py").read_text()
    named = set(re.findall(r"PAGE}#([a-z-]+)", text))
    assert len(named) == 4 and named <= sections
