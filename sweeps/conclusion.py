"""The end of a stage: ranking, winner, picture, and what to type next."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from mmpo_train.config import TrialConfig
from mmpo_train.terminal import console
from sweeps.plots import plot_stage
from sweeps.winners import Candidate, Ranked, Ranking, p_text, rank

if TYPE_CHECKING:
    from sweeps.stage import Stage
    from sweeps.stage_log import StageLog
    from sweeps.tracking import TrialRecord


def conclude(
    stage: Stage,
    experiment: str,
    records: dict[str, TrialRecord],
    trials: list[TrialConfig],
    log: StageLog,
    storage: Path,
) -> Ranking:
    """Rank the trials, draw them, record the winner as tags, print it all. Returns the ranking."""
    ranking = rank(
        [candidate for trial in trials for candidate in _candidates(stage, trial, records.get(trial.digest))]
    )
    objective = trials[0].objective
    baseline = _baseline(log)
    picture = plot_stage(
        storage / "plots" / f"{stage.name}-{objective}-{log.run_id[:8]}.png",
        title=f"{stage.title}: {objective}, {experiment}",
        axis_name=stage.axis.replace("_", " "),
        ranking=ranking,
        log_axis=stage.log_axis,
        baseline=baseline.get("reward_accuracy") or None,
        curves=_curves(stage, trials, records),
    )
    console.print(_table(stage, ranking, records))
    if baseline:
        console.print(
            f"starting model: reward accuracy {baseline['reward_accuracy']:.4f}"
            + (" (all scores are equal before training)" if baseline["reward_accuracy"] == 0 else "")
            + f", accuracy by plain log-probabilities {baseline['policy_accuracy']:.4f}",
            highlight=False,
        )
    console.print(f"\n[bold]{escape(ranking.reason)}[/]{_at_the_edge(stage, ranking)}", highlight=False)
    log.log_figure(picture)
    log.log_table("ranking", _columns(stage, ranking, records))
    log.describe(_description(ranking))
    winner = ranking.winner
    if winner is None:
        log.finish(None, {"winner.reason": ranking.reason})
    else:
        log.finish(
            records[winner.candidate.extra["digest"]],
            {
                f"winner.{stage.axis}": winner.candidate.value,
                "winner.epoch": winner.candidate.epoch,
                "winner.reward_accuracy": winner.accuracy,
                "winner.reason": ranking.reason,
            },
        )
    failed = [record for record in records.values() if record.status == "failed"]
    if failed:
        console.print(f"{len(failed)} failed: the same command tries them again", highlight=False)
    console.print(f"picture: {picture}", highlight=False, soft_wrap=True)
    return ranking


def print_next(stage: Stage, ranking: Ranking, arguments: str, ui_command: str, page: str) -> None:
    """The commands that come next."""
    console.print("\nnext:", style="bold")
    if ranking.winner is not None and stage.next_command:
        command = as_typed(f"{stage.next_command}{arguments}")
        there = (Path(__file__).parent / Path(stage.next_command.split()[1]).name).is_file()
        missing = "" if there else "   # comes with a later version"
        console.print(f"  {command}{missing}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"  {as_typed(ui_command)}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"  {page}", highlight=False, soft_wrap=True, markup=False)


def as_typed(command: str) -> str:
    """The command as it must be typed: with the environment's folder in front unless the shell finds it there."""
    program, folder = command.split()[0], Path(sys.executable).parent
    found = shutil.which(program)
    if not (folder / program).exists() or (found and Path(found).parent == folder):
        return command
    below = folder.is_relative_to(Path.cwd())
    return f"{folder.relative_to(Path.cwd()) if below else folder}/{command}"


def _at_the_edge(stage: Stage, ranking: Ranking) -> str:
    if ranking.winner is None or ranking.winner.candidate.value not in (min(stage.values), max(stage.values)):
        return ""
    side = "largest" if ranking.winner.candidate.value == max(stage.values) else "smallest"
    return f" It is the {side} of the grid: one beyond it might do better."


def _description(ranking: Ranking) -> str:
    """The ranking in MLflow's own words: Markdown."""
    lines = [ranking.reason, "", "| | reward accuracy | 95% interval |", "|---|---|---|"]
    for row in ranking.rows:
        if row.accuracy is None or row.interval is None:
            lines.append(f"| {row.candidate.label} | {row.candidate.state} | |")
        else:
            lines.append(
                f"| {row.candidate.label} | {row.accuracy:.4f} | {row.interval[0]:.3f}–{row.interval[1]:.3f} |"
            )
    return "\n".join(lines)


def _candidates(stage: Stage, trial: TrialConfig, record: TrialRecord | None) -> list[Candidate]:
    label, value = stage.label(trial), getattr(trial, stage.axis)
    if record is None or record.status != "finished" or not record.evaluations:
        state = record.status if record is not None and record.status in ("diverged", "failed") else "failed"
        return [Candidate(label=label, value=value, state=state, extra={"digest": trial.digest})]
    return [
        Candidate(
            label=label,
            value=value,
            epoch=evaluation.epoch,
            correct=evaluation.correct,
            extra={"digest": trial.digest, "checkpoint": evaluation.checkpoint, "metrics": evaluation.metrics},
        )
        for evaluation in record.evaluations
    ]


def _curves(stage: Stage, trials: list[TrialConfig], records: dict[str, TrialRecord]) -> dict[str, dict[str, Any]]:
    names = {"validation/reward_accuracy": "validation_curve/reward_accuracy", "training/loss": "train/loss"}
    return {
        stage.label(trial): {shown: records[trial.digest].curve(name) for shown, name in names.items()}
        for trial in trials
        if trial.digest in records
    }


def _baseline(log: StageLog) -> dict[str, float]:
    prefix = "baseline."
    return {name.removeprefix(prefix): float(value) for name, value in log.tags.items() if name.startswith(prefix)}


def _table(stage: Stage, ranking: Ranking, records: dict[str, TrialRecord]) -> Table:
    table = Table(title=f"ranking on {ranking.pairs} validation pairs", title_justify="left", title_style="bold")
    table.add_column("")
    for name in (stage.axis.replace("_", " "), "reward accuracy", "95% interval", "epoch"):
        table.add_column(name, justify="right")
    table.add_column("against the winner")
    for place, row in enumerate(ranking.rows, 1):
        record = records.get(row.candidate.extra["digest"])
        table.add_row(*_cells(place, row, ranking, record), style="bold green" if row is ranking.winner else "")
    return table


def _cells(place: int, row: Ranked, ranking: Ranking, record: TrialRecord | None) -> list[str]:
    if row.accuracy is None or row.interval is None:
        reason = record.reason if record is not None and record.reason else "no result"
        return ["", row.candidate.label, row.candidate.state, "", "", escape(reason)]
    low, high = row.interval
    if row.p_value is None:
        verdict = "winner"
    elif ranking.winner is not None and row.accuracy == ranking.winner.accuracy:
        verdict = "tie: later in the grid"
    else:
        verdict = p_text(row.p_value) + (", not distinct" if row.near_winner else "")
    return [
        str(place),
        row.candidate.label,
        f"{row.accuracy:.4f}",
        f"{low:.3f}–{high:.3f}",
        str(row.candidate.epoch),
        verdict,
    ]


def _columns(stage: Stage, ranking: Ranking, records: dict[str, TrialRecord]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for place, row in enumerate(ranking.rows, 1):
        low, high = row.interval or (None, None)
        record = records.get(row.candidate.extra["digest"])
        cells = {
            "place": place,
            stage.axis: row.candidate.value,
            "reward_accuracy": row.accuracy,
            "low_95": low,
            "high_95": high,
            "p_value": row.p_value,
            "epoch": row.candidate.epoch,
            "state": row.candidate.state,
            "checkpoint": row.candidate.extra.get("checkpoint", ""),
            "run_id": record.run_id if record is not None else "",
        }
        for name, value in cells.items():
            columns.setdefault(name, []).append(value)
    return columns
