"""What a report names as missing."""

from typing import Any, cast

from sweeps.ledger.records import TrialRecord
from sweeps.reporting.missing import evaluations_missing
from sweeps.reporting.read import Point, StageRun, Trial


def trial(scores: dict[str, dict[int, float]]) -> Trial:
    record = TrialRecord(
        run_id="run", digest="digest", name="name", stage="", parent="", status="finished", params={"epochs": "2"},
        config={}, evaluations=(), judged_by=frozenset(), reason="", seconds=None, read_curve=cast(Any, None),
    )  # fmt: skip
    return Trial(record, {}, scores, ())


def test_a_judge_that_did_not_judge_is_named_with_its_largest_share():
    """Over the points and epochs of a stage: 0.1, 0.25 and 0 of one judge, nothing of the other."""
    points = [
        Point(
            "0.1",
            (trial({"alpaca/unjudged_share/gpt": {1: 0.1, 2: 0.25}, "alpaca/unjudged_share/haiku": {1: 0.0}}),),
            1,
        ),
        Point("0.2", (trial({"alpaca/unjudged_share/gpt": {1: 0.0}}),), 1),
    ]
    told = evaluations_missing(StageRun("run", "final_runs", "mmpo", {}, {}, 0, tuple(points), (), ()))
    [named] = [one for one in told if "unjudged" in one]
    assert "`alpaca/unjudged_share/gpt` is up to 25.0%" in named
