"""AlpacaEval's win rate of a checkpoint as it is shown: length-controlled, or raw where length control found nothing.

The fit of the length control has a penalty that sets its weights to 0 unless the judgements speak against it. If all of
them are 0 the length-controlled rate is exactly 50%, whatever the judgements were: it says nothing then, and the raw
win rate stands in its place, with a mark.
"""

from collections.abc import Collection, Mapping
from statistics import mean

from mmpo_train.metric_names import LENGTH_CONTROLLED, WIN_RATE, by_judge, error_of
from sweeps.ranking.noise import Measured

RAW = "raw"
"""The mark of a rate that is the raw one, for one judge at least."""
RAW_SAID = f"({RAW}): the length control found nothing in the judgements, so this is the raw win rate"
_NOTHING = 0.5


def length_controlled(metrics: Collection[str]) -> str | None:
    """The kind of length-controlled win rate among these metrics, the published one before others."""
    return next((name for name in LENGTH_CONTROLLED if name in metrics), None)


def shown_rate(scores: Mapping[str, float], metric: str) -> Measured | None:
    """A length-controlled rate of one checkpoint, the mean over judges; None where it was not measured.

    `scores` has the checkpoint's metrics. All judges read the same answers, so their errors may all point one way: the
    mean of them is the most it is.
    """
    if metric not in scores:
        return None
    judges = _by_judge(scores, error_of(metric)) | _by_judge(scores, metric)
    values, errors, raw = [], [], 0
    for judge in judges or [""]:
        name = by_judge(metric, judge) if by_judge(metric, judge) in scores else metric
        plain = by_judge(WIN_RATE, judge) if by_judge(WIN_RATE, judge) in scores else WIN_RATE
        found_nothing = scores[name] == _NOTHING and plain in scores
        raw += found_nothing
        values.append(scores[plain if found_nothing else name])
        error = by_judge(error_of(WIN_RATE if found_nothing else metric), judge)
        errors += [scores[error]] if error in scores else []
    of = "the judge's standard error" if len(errors) == 1 else f"mean of {len(errors)} judges' standard errors"
    value = mean(values) if raw else scores[metric]
    return Measured(value, mean(errors) if errors else None, of if errors else "unknown", mark=RAW if raw else "")


def _by_judge(scores: Mapping[str, float], metric: str) -> dict[str, float]:
    start = by_judge(metric, "")
    return {name.removeprefix(start): value for name, value in scores.items() if name.startswith(start)}
