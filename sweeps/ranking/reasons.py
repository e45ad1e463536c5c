"""Why a point wins, or none does, in sentences."""

from collections.abc import Sequence

from sweeps.ranking.ranked import SHARES_OF_PAIRS, Ranked, are_one_model, scores_differ
from sweeps.ranking.significance import p_text

_NAMED = 12
"""So many points are named in a sentence."""


def reason_of(rows: Sequence[Ranked], without: Sequence[Ranked], pairs: int, by: str, winner: Ranked | None) -> str:
    """One or two sentences: which point wins, or is chosen, and how sure that is."""
    if not rows:
        states = ", ".join(f"{row.candidate.label} {row.candidate.state}" for row in without)
        return f"No winner: no trial has a result ({states})." if without else "No winner: there are no trials."
    if scores_differ(rows) and not by:
        return _by_own_scores(rows, winner)
    assert winner is not None
    others = rows[1:]
    name, several = winner.candidate.label, len(winner.seeds) > 1
    share = f"{sum(winner.candidate.correct)} of {pairs} pairs right ({winner.accuracy:.3f})"
    if several:
        share = f"{winner.accuracy:.3f} (±{winner.deviation:.3f} over {len(winner.seeds)} seeds) of {pairs} pairs right"
    if by:
        share = f"{by} {winner.accuracy:.4f}"
    if not others:
        return f"{name} wins: {share}, the only trial with a result."
    if are_one_model(rows):
        return f"These {len(rows)} points are the same model. {name} is taken as first in the grid: {share}."
    tied = [row.candidate.label for row in others if row.accuracy == winner.accuracy]
    near = [row.candidate.label for row in others if row.near_winner and row.accuracy != winner.accuracy]
    if tied:
        first = f"{name} ties with {listed(tied)} at {share}: taken as first in the grid."
    else:
        second = others[0]
        assert winner.accuracy is not None and second.accuracy is not None
        lead = 100 * (winner.accuracy - second.accuracy)
        by_how_much = f"{lead:.1f} {'point' if f'{lead:.1f}' == '1.0' else 'points'}"
        sure = f", {p_text(second.p_value)}" if second.p_value is not None else "; not tested"
        if by and by not in SHARES_OF_PAIRS:
            by_how_much = f"{winner.accuracy - second.accuracy:.4f}"
        first = f"{name} wins: {share}, {by_how_much} above the next ({second.candidate.label}{sure})."
    if not near:
        return first
    said = "A tie within noise:" if several else "At 5% it does not differ significantly from"
    return f"{first} {said} {listed(near)}."


def _by_own_scores(rows: Sequence[Ranked], winner: Ranked | None) -> str:
    """Where accuracies are by different scores: what they are, and what the rule picks."""
    starts = [row.candidate.start for row in rows if row.candidate.start is not None]
    ends = dict.fromkeys(f"{end:.3f}" for end in (min(starts, default=0), max(starts, default=0)))
    said = f" (the starting model has {' to '.join(ends)} by them)" if starts else ""
    if are_one_model(rows):
        first = f"These {len(rows)} points are the same model; only the score differs."
    else:
        first = f"Reward accuracy is by each point's own score here{said}, so that it compares no two points."
        alike = _alike(rows)
        first += f" {'; '.join(listed(labels) for labels in alike)}: the same model." if alike else ""
    if winner is None:
        return f"{first} None is chosen."
    gain = "" if winner.gain is None else f", the starting model {winner.candidate.start:.3f}"
    return (
        f"{first} The rule of Appendix B.1 takes {winner.candidate.label}, whose own score gets most pairs right "
        f"({winner.accuracy:.3f}{gain}): {'a choice of score' if are_one_model(rows) else 'by different scores'}."
    )


def _alike(rows: Sequence[Ranked]) -> list[list[str]]:
    """Labels of the points that are the same model, for each model that several are."""
    models: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.trainings:
            models.setdefault(row.trainings, []).append(row.candidate.label)
    return [labels for labels in models.values() if len(labels) > 1]


def listed(labels: Sequence[str]) -> str:
    """`a, b and c`; of very many the first, and how many others."""
    if len(labels) > _NAMED + 1:
        labels = [*labels[:_NAMED], f"{len(labels) - _NAMED} others"]
    return " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
