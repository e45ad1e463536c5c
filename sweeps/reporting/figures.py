"""The report's figures from the ledger's numbers: Figures 1 to 3, and the curves of every stage."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmpo_train.metric_names import HARNESS_MEAN, LENGTH_CONTROLLED
from sweeps.figures.style import in_order
from sweeps.figures.trade_off import Curve, Trajectory, colours_of, draw_curves, draw_trade_off
from sweeps.ledger.tags import baseline_of
from sweeps.plan.labels import words
from sweeps.plan.order import ABLATIONS, FINAL_RUNS, SEARCH
from sweeps.ranking.noise import over_seeds
from sweeps.ranking.reasons import listed
from sweeps.ranking.win_rates import RAW_SAID
from sweeps.reporting.missing import stage_missing
from sweeps.reporting.numbers import epochs_of, length_controlled, measure
from sweeps.reporting.page import Picture
from sweeps.reporting.read import Experiment, StageRun
from sweeps.reporting.tables import model_name, stage_title

_SHOWS = "LM Harness accuracy over win rate, epoch by epoch: "


def trade_offs(experiment: Experiment, folder: Path, suffix: str = "") -> list[Picture]:
    """Figures 1 and 2: the final runs of MMPO beside those of each other objective, or alone without another."""
    there = [name for name in experiment.objectives if _has_points(experiment.stage(FINAL_RUNS.name, name))]
    first = "mmpo" if "mmpo" in there else there[0] if there else ""
    others = [name for name in there if name != first]
    pairs: list[tuple[str, ...]] = [(first, other) for other in others] or ([(first,)] if first else [])
    pictures = []
    for pair in pairs:
        figure = {("mmpo", "dpo"): "Figure 1", ("mmpo", "simpo"): "Figure 2"}.get((pair[0], pair[-1]), "Trade-off")
        stages = [stage for name in pair if (stage := experiment.stage(FINAL_RUNS.name, name)) is not None]
        against = " and ".join(pair)
        called = f"{figure}. {model_name(experiment)}: {against}, final runs"
        stem = f"{figure.lower().replace(' ', '').replace('-', '_')}_{'_'.join(pair)}{suffix}"
        pictures.append(_trade_off(experiment, stages, folder / stem, called, "beta"))
    return pictures


def ablation(experiment: Experiment, folder: Path, suffix: str = "") -> list[Picture]:
    """Figure 3, if the ablations were run."""
    stage = experiment.stage(ABLATIONS.name, "mmpo")
    if stage is None or not _has_points(stage):
        return []
    called = f"Figure 3. {model_name(experiment)}: ablations of mmpo"
    return [_trade_off(experiment, [stage], folder / f"figure3_ablations{suffix}", called, "variant")]


def _has_points(stage: StageRun | None) -> bool:
    return stage is not None and bool(stage.points)


def _trade_off(experiment: Experiment, stages: Sequence[StageRun], path: Path, title: str, called: str) -> Picture:
    rates = length_controlled(stages)
    baseline = experiment.starting_model.get(HARNESS_MEAN)
    trajectories = [one for stage in stages for one in _trajectories(stage, rates)]
    picture = draw_trade_off(
        path,
        title=title,
        rate_name=LENGTH_CONTROLLED[rates],
        called=called,
        colours=_colours(experiment, called, [one.label for one in trajectories]),
        trajectories=trajectories,
        baseline=baseline,
    )
    lacking = [sentence for stage in stages for sentence in stage_missing(stage)]
    if baseline is None:
        lacking.append("The starting model's harness accuracy is not in the ledger.")
    bars = sorted({one.noise_is for line in trajectories for _, *both in line.epochs for one in both})
    caption = (
        f"{title}. Numbers are epochs, arrows lead from one to the next. Error bars: {'; '.join(bars) or 'none'}. "
    )
    if any(x.mark for line in trajectories for _, x, _ in line.epochs):
        caption += f"Hollow markers {RAW_SAID}. "
    caption += ("Missing: " + " ".join(lacking)) if lacking else "Nothing is missing."
    return Picture(picture, caption, _SHOWS + title)


def _trajectories(stage: StageRun, rates: str) -> list[Trajectory]:
    found = []
    for point in stage.points:
        every = ((one, measure(point, rates, one), measure(point, HARNESS_MEAN, one)) for one in epochs_of(stage))
        known = tuple((epoch, x, y) for epoch, x, y in every if x is not None and y is not None)
        found.append(Trajectory(point.label, stage.objective, known))
    return found


def curves(experiment: Experiment, folder: Path, suffix: str = "") -> list[Picture]:
    """Validation reward accuracy over steps, one figure for every stage and objective with points."""
    order = {name: place for place, name in enumerate(SEARCH)}
    keys = sorted(
        {(stage.name, stage.objective) for stage in experiment.stages},
        key=lambda key: (order.get(key[0], len(order)), key[0], experiment.objectives.index(key[1]) if key[1] else 99),
    )
    pictures = []
    for name, objective in keys:
        stage = experiment.stage(name, objective)
        if stage is None or not stage.points:
            continue
        title = f"{stage_title(name).capitalize()}: {objective}, {model_name(experiment)}"
        lines = [_curve(point.label, [trial.curve for trial in point.trials]) for point in stage.points]
        path = draw_curves(
            folder / f"curves_{name}_{objective}{suffix}",
            title=title,
            called=words(stage.axis),
            curves=lines,
            colours=_colours(experiment, stage.axis, [line.label for line in lines]),
            baseline=_baseline(stage),
            winner=stage.winner,
        )
        without = [line.label for line in lines if not line.steps]
        caption = f"{title}: validation reward accuracy over optimiser steps. {_alike(lines)}".rstrip()
        caption += f" Missing: nothing was logged for {', '.join(without)}." if without else ""
        pictures.append(Picture(path, caption, f"Reward accuracy over steps, {title}"))
    return pictures


def _colours(experiment: Experiment, axis: str, labels: Sequence[str]) -> dict[str, Any]:
    """The colours of labels. A beta has the same colour in all figures of the experiment."""
    if axis == "beta":
        every = {point.label for stage in experiment.stages if stage.axis == "beta" for point in stage.points}
        return colours_of(sorted(every))
    return colours_of(labels) if axis == "variant" else in_order(labels)


def _alike(lines: Sequence[Curve]) -> str:
    """Which lines hide each other, as they have the same numbers."""
    same: dict[tuple[object, ...], list[str]] = {}
    for line in lines:
        same.setdefault(line.steps, []).append(line.label)
    groups = [listed(labels) for steps, labels in same.items() if steps and len(labels) > 1]
    return f"On top of each other, with the same numbers: {'; '.join(groups)}." if groups else ""


def _curve(label: str, seeds: Sequence[Sequence[tuple[int, float]]]) -> Curve:
    by_step = over_seeds(seeds).items()
    return Curve(label, tuple((step, mean(some), stdev(some) if len(some) > 1 else 0.0) for step, some in by_step))


def _baseline(stage: StageRun) -> float | None:
    """The starting model's score by the objective; None if it differs between points."""
    return baseline.line if (baseline := baseline_of(stage.tags)) is not None else None
