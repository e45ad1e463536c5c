"""The cost of every stage: trials trained and reused, their time, and GPU-hours."""

from mmpo_train.tables import Table
from sweeps.reporting.page import MISSING, Sheet
from sweeps.reporting.read import Experiment
from sweeps.reporting.tables import stage_title


def cost_table(experiment: Experiment) -> Sheet:
    """A row for every run of a stage, in the order of their starts, and their sum."""
    rows, total_trained, total_seconds, total_hours = [], 0, 0.0, 0.0
    for stage in experiment.stages:
        recorded = experiment.trained_in(stage)
        trained = [trial for trial in recorded if not trial.record.shares]
        reused = sum("taken.digest" in child.tags for child in stage.children)
        timed = [trial for trial in trained if trial.record.seconds is not None]
        seconds = sum(trial.record.seconds or 0.0 for trial in timed)
        gpus = [None if trial.hardware is None else trial.hardware.gpus for trial in timed]
        hours = sum((trial.record.seconds or 0.0) * (count or 0) / 3600 for trial, count in zip(timed, gpus))
        counts = str(len(trained)), str(len(recorded) - len(trained)), str(reused)
        took = MISSING if trained and not timed else f"{seconds:,.0f}", _hours(gpus, hours)
        on = ", ".join(sorted({str(trial.hardware or "unknown") for trial in trained})) or MISSING
        ended = str(len(trained) - len(timed) or ""), stage.tags.get("stage.state", "running")
        rows.append((stage_title(stage.name), stage.objective or "several", *counts, *took, on, *ended))
        total_trained += len(trained)
        total_seconds += seconds
        total_hours += hours
    known = f"{total_hours:.2f}" if total_hours else MISSING
    rows.append(("all", "", str(total_trained), "", "", f"{total_seconds:,.0f}", known, "", "", ""))
    cost = ("trained", "scored", "reused", "seconds", "GPU-hours", "on", "without time")
    headers = ("stage", "objective", *cost, "state")
    caption = (
        "Cost of every stage: wall-clock seconds of the trials that it trained, evaluation included, added up over "
        "trials. A scored point shares another's training. A reused trial is counted where it was trained. Trials that "
        "did not finish have no time, and one that was interrupted has the time since its last start."
    )
    return Sheet("cost", Table(caption, headers, rows, words=(0, 1, 7, 9)))


def _hours(gpus: list[float | None], hours: float) -> str:
    if None in gpus:
        return "unknown"
    return f"{hours:.2f}" if any(gpus) else "no GPU" if gpus else MISSING
