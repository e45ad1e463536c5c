"""Which point of a grid wins, and how sure that is.

Reward accuracy is a share of a few hundred validation pairs, so neighbours on a grid often differ by less than
chance. All trials are scored on the same pairs, which makes an exact paired test possible. It is a point's own score
that decides a pair, however: where points have different scores their accuracies are not compared, and where they have
the same model there is nothing to compare but the score.
"""

import math
from collections.abc import Sequence
from statistics import mean

from mmpo_train.errors import InputError
from sweeps.ranking.ranked import SHARES_OF_PAIRS, Candidate, Ranked, Ranking
from sweeps.ranking.reasons import reason_of
from sweeps.ranking.significance import Z, difference_test, sign_test, t_test, wilson_interval


def rank(candidates: Sequence[Candidate], *, by: str = "", must_choose: bool = True) -> Ranking:
    """Best epoch of each point, ordered by what it is chosen by; the grid's order is that of `candidates`.

    `by` names the metric that candidates have as their `measure`. Where their scores differ and not one `must_choose`,
    there is no winner, and the points stay in the grid's order.

    Over several seeds accuracy is the mean, and an epoch is the same for all of them. A point of which one seed has no
    result has none. Within a point a tie goes to the earlier epoch, between points to the first in the grid. Raises
    InputError when trials were scored on different numbers of pairs, or on none.
    """
    pairs = _pairs(candidates)
    points: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        points.setdefault(candidate.label, []).append(candidate)
    best: list[tuple[Candidate, ...]] = []
    without = []
    for scored in points.values():
        broken = [candidate for candidate in scored if candidate.state != "finished"]
        if broken:
            without.append(Ranked(broken[0]))
        else:
            best.append(_best_epoch(scored))
    chooses = bool(best) and (must_choose or bool(by) or len({seeds[0].score for seeds in best}) == 1)
    if chooses:
        best.sort(key=lambda seeds: -_total(seeds) / len(seeds))  # stable: ties stay in the grid's order
    rows = [_ranked(seeds, pairs, by, best[0] if chooses else None) for seeds in best]
    winner = rows[0] if chooses else None
    return Ranking((*rows, *without), winner, pairs, reason_of(rows, without, pairs, by, winner), by)


def _ranked(seeds: tuple[Candidate, ...], pairs: int, by: str, winners: tuple[Candidate, ...] | None) -> Ranked:
    accuracy = _total(seeds) / len(seeds) / (pairs if seeds[0].measure is None else 1)
    interval = wilson_interval(accuracy * pairs, pairs) if not by or by in SHARES_OF_PAIRS else None
    error = seeds[0].error
    if interval is None and error is not None and len(seeds) == 1:
        interval = accuracy - Z * error, accuracy + Z * error
    p_value = None
    if winners is not None and winners is not seeds:
        if not by and winners[0].score == seeds[0].score:
            p_value = _p_value(winners, seeds)
        elif by and not _is_one_model(winners, seeds):
            p_value = _p_value_by_measure(winners, seeds)
    return Ranked(seeds[0], accuracy, interval, p_value, seeds)


def _is_one_model(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> bool:
    return bool(ours[0].training) and [one.training for one in ours] == [one.training for one in theirs]


def _p_value_by_measure(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> float | None:
    """p of the paired t-test over seeds, where both have the same ones, at least two; else by the standard errors.

    All points are measured on the same pairs, prompts or documents, which standard errors do not know: their test is
    then less likely to find a difference than a paired one.
    """
    if _paired(ours, theirs):
        return t_test([a.share - b.share for a, b in zip(ours, theirs, strict=True)])
    errors = [one.error for one in (*ours, *theirs)]
    if len(errors) > 2 or None in errors:
        return None
    return difference_test(ours[0].share - theirs[0].share, math.hypot(*(error or 0.0 for error in errors)))


def _paired(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> bool:
    """Whether both have the same seeds, at least two."""
    return len(ours) > 1 and [one.seed for one in ours] == [one.seed for one in theirs]


def _best_epoch(scored: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates of all seeds in the epoch that is best on average."""
    epochs: dict[int, list[Candidate]] = {}
    for candidate in scored:
        epochs.setdefault(candidate.epoch, []).append(candidate)
    seeds = max(len(some) for some in epochs.values())
    whole = {epoch: some for epoch, some in epochs.items() if len(some) == seeds}
    return tuple(whole[max(whole, key=lambda epoch: (_total(whole[epoch]), -epoch))])


def _total(seeds: Sequence[Candidate]) -> float:
    """Over all seeds: pairs that are right, or the other measure."""
    return sum(sum(one.correct) if one.measure is None else one.measure for one in seeds)


def _p_value(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> float:
    """p of the sign test over pairs, with verdicts summed over seeds, so that each pair counts once.

    This test takes the seeds as given. To guard against a lucky seed, the larger of it and of the t-test over seeds
    counts if both points have the same seeds, at least two.
    """
    over_pairs = sign_test(_summed(ours), _summed(theirs))
    if not _paired(ours, theirs):
        return over_pairs
    return max(over_pairs, t_test([mean(a.correct) - mean(b.correct) for a, b in zip(ours, theirs, strict=True)]))


def _summed(seeds: Sequence[Candidate]) -> list[int]:
    return [sum(verdicts) for verdicts in zip(*(one.correct for one in seeds), strict=True)]


def _pairs(candidates: Sequence[Candidate]) -> int:
    """The number of pairs on which all finished candidates were scored; 0 if none has finished."""
    finished = [candidate for candidate in candidates if candidate.state == "finished"]
    counts = {len(candidate.correct) for candidate in finished}
    if len(counts) > 1:
        several = len({candidate.label for candidate in finished}) < len(finished)
        listed = ", ".join(f"{c.label}{f' epoch {c.epoch}' if several else ''} on {len(c.correct)}" for c in finished)
        raise InputError(
            f"the trials were scored on different numbers of validation pairs ({listed}) and cannot be ranked; "
            f"evaluate all of them on the same pairs"
        )
    if counts == {0}:
        raise InputError("the trials were scored on no validation pairs; give the dataset a validation split")
    return counts.pop() if counts else 0
