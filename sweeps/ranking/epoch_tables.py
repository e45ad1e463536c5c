"""Tables of the final runs with a row for each point and a column for each epoch."""

from collections.abc import Mapping, Sequence
from statistics import mean

from mmpo_train import metric_names as keys
from mmpo_train import tables
from mmpo_train.tables import Table
from sweeps.ledger.records import TrialRecord
from sweeps.plan.labels import with_deviation
from sweeps.plan.stages import GridPoint
from sweeps.ranking.noise import Measured
from sweeps.ranking.win_rates import RAW, RAW_SAID, length_controlled, shown_rate


def epoch_tables(points: Sequence[GridPoint], records: Mapping[str, TrialRecord], axis_name: str) -> list[Table]:
    """A table of the means over seeds for each metric that was measured; each point's best epoch is marked."""
    found = []
    epochs = range(1, max(point.trials[0].config.epochs for point in points) + 1)
    for metric, title in _metrics(
        [records[trial.digest] for p in points for trial in p.trials if trial.digest in records]
    ):
        measured = {point.label: _by_epoch(point, records, metric) for point in points}
        if not any(measured.values()):
            continue
        rows, best = [], set()
        for number, (label, values) in enumerate(measured.items()):
            rows.append((label, *(_cell(values[epoch]) if epoch in values else "missing" for epoch in epochs)))
            if values:
                peak = max(values, key=lambda epoch: (mean(one.value for one in values[epoch]), -epoch))
                best.add((number, peak))
        marked = any(one.mark for values in measured.values() for some in values.values() for one in some)
        about = f"{title}, {axis_name} by epoch (peak bold){f'; {RAW_SAID}' if marked else ''}"
        about += _judge_checks(points, records, metric)
        found.append(Table(about, ("", *(f"epoch {epoch}" for epoch in epochs)), rows, best=best))
    return found


def _judge_checks(points: Sequence[GridPoint], records: Mapping[str, TrialRecord], win_rate: str) -> str:
    """What stands beside a judged win rate, in words, as the mean over all checkpoints; empty for other metrics."""
    said = []
    for name, metric in zip(("null answer", "order flips"), keys.judge_checks_of(win_rate)):
        values = [value for point in points for some in _by_epoch(point, records, metric).values() for value in some]
        said += [f"{name} {mean(one.value for one in values):.3f}"] if values else []
    return f"; {', '.join(said)}" if said else ""


def as_markdown(found: Sequence[Table]) -> str:
    """The tables in Markdown."""
    return "".join(f"**{one.title}**\n\n{tables.as_markdown(one, aligned=False)}\n\n" for one in found).rstrip("\n")


def _metrics(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """(metric, title) of what final runs are judged by. AlpacaEval's stands under the name of what was measured."""
    rates = length_controlled({name for record in records for name in record.logged}) or keys.LC_WIN_RATE
    return [
        (keys.REWARD_ACCURACY, "reward accuracy"),
        (keys.HARNESS_MEAN, "LM Harness, mean accuracy"),
        (rates, f"AlpacaEval, {keys.LENGTH_CONTROLLED[rates]}"),
        (keys.WIN_RATE, "AlpacaEval, raw win rate"),
        (keys.ARENA_WIN_RATE, "Arena-Hard, win rate"),
    ]


def _by_epoch(point: GridPoint, records: Mapping[str, TrialRecord], metric: str) -> dict[int, list[Measured]]:
    """Epoch -> values of all seeds."""
    values: dict[int, list[Measured]] = {}
    for trial in point.trials:
        if trial.digest in records:
            for epoch, one in _of_trial(records[trial.digest], metric).items():
                values.setdefault(epoch, []).append(one)
    return values


def _of_trial(record: TrialRecord, metric: str) -> dict[int, Measured]:
    if metric not in keys.LENGTH_CONTROLLED:
        return {epoch: Measured(value, None, "") for epoch, value in record.curve(metric)}
    scores: dict[int, dict[str, float]] = {}
    for name in sorted(record.logged):
        if name.startswith((metric, keys.WIN_RATE)):
            for epoch, value in record.curve(name):
                scores.setdefault(epoch, {})[name] = value
    shown = {epoch: shown_rate(some, metric) for epoch, some in scores.items()}
    return {epoch: one for epoch, one in shown.items() if one is not None}


def _cell(seeds: Sequence[Measured]) -> str:
    return with_deviation([one.value for one in seeds]) + (f" ({RAW})" if any(one.mark for one in seeds) else "")
