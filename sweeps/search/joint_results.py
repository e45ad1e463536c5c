"""The results of a joint search: its trials, the best one, and the importance of each hyper-parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmpo_train.errors import InputError
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import Table, as_csv, for_terminal, shortened
from mmpo_train.terminal import console, print_text
from sweeps.ledger.stage_log import StageLog
from sweeps.plan.labels import shown, words
from sweeps.plan.options import SweepOptions

if TYPE_CHECKING:
    from sweeps.search.proposals import Range

FIRST, BEST = "after one epoch, all trials", "best epoch, trials not stopped"
_FEW = 10
"""Number of trials below which importances are rough."""


@dataclass(frozen=True)
class Tried:
    """A proposal and its result."""

    number: int
    digest: str
    values: Mapping[str, float]
    scores: tuple[float, ...]
    """Reward accuracy after each of its epochs."""
    state: str
    reason: str = ""


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """The finished trial with the highest reward accuracy; a tie goes to the earlier proposal."""
    finished = [one for one in tried if one.state == "finished"]
    return max(finished, key=lambda one: (max(one.scores), -one.number)) if finished else None


def conclude(
    tried: Sequence[Tried], ranges: Mapping[str, Range], options: SweepOptions, log: StageLog, experiment: str
) -> None:
    """Print and record trials and importances. Raises InputError if no trial has finished."""
    from sweeps.figures.importances import plot_importances

    best = best_of(tried)
    names, objective = list(ranges), options.objective
    stem = f"joint_search-{objective}-{log.run_id[:8]}"
    console.print(for_terminal(listed(tried, names)))
    log.log_table("trials", _columns(tried, names))
    if best is None:
        log.finish(None, {})
        reasons = sorted({one.reason for one in tried if one.reason})
        raise InputError(f"no trial of the joint search finished: {'; '.join(reasons) or 'nothing was trained'}")
    found = importances_of(tried, ranges, options.seed)
    answers = [sentence(tried, best), *answer(objective, found, tried)]
    print_text("\n" + "\n".join(answers))
    if found:
        console.print(for_terminal(_importance_table(found, names)))
        title = f"What reward accuracy depends on: {objective}, {experiment}"
        in_words = {kind: {words(name): share for name, share in by.items()} for kind, by in found.items()}
        picture = plot_importances(options.folder / "plots" / f"{stem}.png", title=title, importances=in_words)
        log.log_file(picture, "figures")
        shares = {kind: [by[name] for name in names] for kind, by in found.items()}
        log.log_table("importances", {"field": names, **shares})
        print_text(f"picture: {picture}")
    path, columns = options.folder / "reports" / f"{stem}.csv", _columns(tried, names)
    write_whole(path, as_csv(columns, zip(*columns.values(), strict=True)))
    log.log_file(path, "tables")
    log.describe("\n\n".join(answers))
    log.tag({f"best.{name}": value for name, value in best.values.items()} | {"best.reward_accuracy": max(best.scores)})
    log.tag({f"importance.{name}": round(share, 4) for name, share in found.get(FIRST, {}).items()})
    log.finish(None, {"best.digest": best.digest})


def importances_of(tried: Sequence[Tried], ranges: Mapping[str, Range], seed: int) -> dict[str, dict[str, float]]:
    """Score -> field -> share of the score's variance; without scores that have too few trials.

    After one epoch all trials can be compared; later only those that were not stopped, which are similar.
    """
    from sweeps.search.proposals import importances

    scored = {
        FIRST: [(one.values, one.scores[0]) for one in tried if one.scores],
        BEST: [(one.values, max(one.scores)) for one in tried if one.state == "finished"],
    }
    found = {kind: importances(ranges, points, seed) for kind, points in scored.items()}
    return {kind: by for kind, by in found.items() if by}


def sentence(tried: Sequence[Tried], best: Tried) -> str:
    """The winner and the states of all trials, in a sentence."""
    ended = {state: sum(one.state == state for one in tried) for state in ("finished", "stopped", "diverged", "failed")}
    counted = ", ".join(f"{count} {state}" for state, count in ended.items() if count)
    values = ", ".join(f"{words(name)} {shown(name, value)}" for name, value in best.values.items())
    return f"Best of {len(tried)} ({counted}): {values}, reward accuracy {max(best.scores):.4f}."


def answer(objective: str, found: Mapping[str, Mapping[str, float]], tried: Sequence[Tried]) -> list[str]:
    """How much of the variance beta explains, in a sentence."""
    if FIRST not in found:
        return ["There are too few trials with different scores to estimate importances."]
    count = sum(bool(one.scores) for one in tried)
    shares = found[FIRST]
    most = max(shares, key=lambda name: shares[name])
    few = f" With only {count} trials this is a rough estimate." if count < _FEW else ""
    return [
        f"Beta explains {shares['beta']:.0%} of the variance of {objective}'s reward accuracy after one epoch, over "
        f"{count} trials; {words(most)} explains most, {shares[most]:.0%} (fANOVA).{few}"
    ]


def listed(tried: Sequence[Tried], names: Sequence[str]) -> Table:
    """The trials as a table, in the order of their proposals."""
    headers = ("number", *map(words, names), "after one epoch", "best", "state")
    rows = []
    for one in tried:
        cells = [shown(name, one.values[name]) for name in names]
        first, best = (f"{one.scores[0]:.4f}", f"{max(one.scores):.4f}") if one.scores else ("", "")
        rows.append((str(one.number), *cells, first, best, one.state))
    return shortened(Table("trials of the joint search", headers, rows, words=(len(headers) - 1,)))


def _importance_table(found: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> Table:
    rows = [(words(name), *(f"{by[name]:.3f}" for by in found.values())) for name in names]
    return Table("share of the variance of reward accuracy (fANOVA)", ("hyper-parameter", *found), rows)


def _columns(tried: Sequence[Tried], names: Sequence[str]) -> dict[str, list]:
    columns: dict[str, list] = {"number": [one.number for one in tried]}
    columns |= {name: [one.values[name] for one in tried] for name in names}
    columns["after_one_epoch"] = [one.scores[0] if one.scores else None for one in tried]
    columns["best"] = [max(one.scores) if one.scores else None for one in tried]
    return columns | {"state": [one.state for one in tried], "trial": [one.digest for one in tried]}
