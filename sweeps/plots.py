"""The picture of a stage: reward accuracy over its axis, and its trials' curves. The one door to matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.winners import Ranked, Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCURACY = "validation/reward_accuracy"
LOSS = "training/loss"
SMOOTH_POINTS = 120
"""A longer loss curve is drawn as means over this many equal stretches."""
_INK, _GREY, _RULE = "#22262b", "#6b7280", "#e3e6ea"

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""By trial label and metric: (step, value)."""


def plot_stage(
    path: Path,
    *,
    title: str,
    axis_name: str,
    ranking: Ranking,
    log_axis: bool = False,
    baseline: float | None = None,
    curves: Curves | None = None,
) -> Path:
    """Writes a PNG of 1400 x 600 pixels and returns its path.

    Left: reward accuracy of each trial's best epoch with Wilson's 95% interval, the winner ringed, those the sign
    test cannot tell from it hollow, trials without a result as crosses at the bottom, the starting model (SFT)
    dashed. Right: `validation/reward_accuracy` and `training/loss` over steps, in the same colours.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: it keeps every figure alive and chooses a backend for the whole process.
    figure = Figure(figsize=(14, 6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1, 1.05), left=0.055, right=0.885, top=0.81, bottom=0.16, wspace=0.15, hspace=0.26
    )
    colours = _colours(ranking)
    figure.suptitle(title, x=0.055, y=0.985, ha="left", fontsize=16, fontweight="bold", color=_INK)
    reason = "\n".join(textwrap.wrap(ranking.reason, 170)[:2])
    figure.text(0.055, 0.925, reason, ha="left", va="top", fontsize=11, color=_GREY, parse_math=False)
    _draw_axis(figure.add_subplot(grid[:, 0]), ranking, colours, axis_name, log_axis, baseline)
    upper = figure.add_subplot(grid[0, 1])
    lower = figure.add_subplot(grid[1, 1], sharex=upper)
    _draw_curves(upper, lower, ranking, colours, curves or {}, axis_name, baseline)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _colours(ranking: Ranking) -> dict[str, Any]:
    """A colour for each trial, ordered along the axis; viridis keeps its order for colour-blind eyes."""
    from matplotlib import colormaps

    labels = [row.candidate.label for row in _along_axis(ranking.rows)]
    # Its bright yellow end is hard to see on white.
    return {
        label: colormaps["viridis"](0.88 * place / max(1, len(labels) - 1))
        for place, label in enumerate(labels)
    }


def _along_axis(rows: Sequence[Ranked]) -> list[Ranked]:
    """Numbers in order, then words in order of rank."""
    numbers = [row for row in rows if not isinstance(row.candidate.value, str)]
    return sorted(numbers, key=lambda row: row.candidate.value) + [row for row in rows if row not in numbers]


def _positions(rows: Sequence[Ranked], log_axis: bool) -> tuple[list[float], bool]:
    """Where the trials stand, and whether a logarithmic axis can show it."""
    values = [row.candidate.value for row in rows]
    if any(isinstance(value, str) for value in values):
        return [float(place) for place in range(len(rows))], False
    numbers = [float(value) for value in values]
    return numbers, log_axis and all(number > 0 for number in numbers)


def _draw_axis(
    axes: Axes,
    ranking: Ranking,
    colours: Mapping[str, Any],
    axis_name: str,
    log_axis: bool,
    baseline: float | None,
) -> None:
    from matplotlib.lines import Line2D

    rows = _along_axis(ranking.rows)
    places, logarithmic = _positions(rows, log_axis)
    if logarithmic:
        axes.set_xscale("log")
    scored = [(x, row) for x, row in zip(places, rows, strict=True) if row.accuracy is not None]
    axes.plot(
        [x for x, _ in scored], [row.accuracy for _, row in scored], color=_RULE, linewidth=1.6, zorder=1
    )
    legend: dict[str, Line2D] = {}
    for x, row in scored:
        assert row.accuracy is not None and row.interval is not None
        colour = colours[row.candidate.label]
        axes.plot([x, x], row.interval, color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
        face = "white" if row.near_winner else colour
        axes.plot(
            x,
            row.accuracy,
            "o",
            markersize=8.5,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=2,
            zorder=4,
        )
        if row is ranking.winner:
            axes.plot(
                x, row.accuracy, "o", markersize=18, color=_INK, markerfacecolor="none", markeredgewidth=1.8
            )
            over = (x, row.interval[1])
            axes.annotate(
                f"{row.accuracy:.3f}",
                over,
                (0, 5),
                textcoords="offset points",
                ha="center",
                weight="bold",
                color=_INK,
            )
            legend["winner"] = _handle("o", markersize=12, markerfacecolor="none", markeredgewidth=1.8)
        elif row.near_winner:
            told = "not told from it at 5%"
            legend[told] = _handle("o", color=_GREY, markersize=8, markerfacecolor="white", markeredgewidth=2)
    if baseline is not None:
        axes.axhline(baseline, color=_GREY, linestyle=(0, (5, 4)), linewidth=1.4, zorder=1)
        legend[f"SFT baseline {baseline:.3f}"] = Line2D(
            [], [], color=_GREY, linestyle=(0, (5, 4)), linewidth=1.4
        )
    _pad_limits(axes, places, scored, baseline, logarithmic, room_below=len(scored) < len(rows))
    for x, row in zip(places, rows, strict=True):
        if row.accuracy is None:
            mark = "x" if row.candidate.state == "diverged" else "+"
            at_bottom = axes.get_xaxis_transform()
            axes.plot(
                x,
                0.045,
                mark,
                markersize=9,
                markeredgewidth=2.4,
                color=colours[row.candidate.label],
                transform=at_bottom,
            )
            legend[row.candidate.state] = _handle(mark, color=_GREY, markersize=8, markeredgewidth=2.2)
    _label_ticks(axes, places, [row.candidate.label for row in rows], logarithmic)
    axes.set_xlabel(axis_name, color=_INK, fontsize=11)
    axes.set_title("Reward accuracy, best epoch, 95% interval", loc="left", fontsize=11, color=_INK)
    _plain(axes)
    if legend:
        axes.legend(
            list(legend.values()), list(legend), loc="upper center", bbox_to_anchor=(0.5, -0.125), ncols=len(legend),
            frameon=False, fontsize=9.5, labelcolor=_INK, handletextpad=0.5, columnspacing=1.4,
        )  # fmt: skip


def _handle(marker: str, **look: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", marker=marker, **{"color": _INK, **look})


def _pad_limits(
    axes: Axes,
    places: Sequence[float],
    scored: Sequence[tuple[float, Ranked]],
    baseline: float | None,
    logarithmic: bool,
    room_below: bool,
) -> None:
    """Room around the points, for the winner's number above and for crosses below."""
    bounds = [bound for _, row in scored for bound in row.interval or ()]
    bounds += [baseline] if baseline is not None else []
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    span = max(high - low, 0.02)
    axes.set_ylim(low - span * (0.22 if room_below else 0.08), high + span * 0.13)
    if not places:
        return
    ends = [math.log10(place) if logarithmic else place for place in (min(places), max(places))]
    margin = 0.07 * (ends[1] - ends[0]) or 0.5
    left, right = ends[0] - margin, ends[1] + margin
    axes.set_xlim(*((10**left, 10**right) if logarithmic else (left, right)))


def _label_ticks(axes: Axes, places: Sequence[float], labels: Sequence[str], logarithmic: bool) -> None:
    """The trials' own labels as ticks, leaving out those that would run into the one before."""
    from matplotlib.ticker import NullLocator

    shares = [math.log10(place) if logarithmic else place for place in places]
    span = (max(shares) - min(shares) if shares else 0) or 1
    kept: list[int] = []
    for index, share in enumerate(shares):
        room = 0.0135 * max(len(labels[index]), 3)
        if not kept or (share - shares[kept[-1]]) / span > room:
            kept.append(index)
    axes.set_xticks([places[index] for index in kept], [labels[index] for index in kept])
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_curves(
    upper: Axes,
    lower: Axes,
    ranking: Ranking,
    colours: Mapping[str, Any],
    curves: Curves,
    axis_name: str,
    baseline: float | None,
) -> None:
    winner = ranking.winner.candidate.label if ranking.winner else ""
    handles, names = [], []
    for row in _along_axis(ranking.rows):
        label = row.candidate.label
        wins = label == winner
        look = {"color": colours[label], "linewidth": 2.8 if wins else 1.5, "zorder": 3 if wins else 2}
        accuracy = _finite(curves.get(label, {}).get(ACCURACY, ()))
        loss = _smooth(_finite(curves.get(label, {}).get(LOSS, ())))
        dots = {"marker": "o", "markersize": 4.5} if len(accuracy) <= 12 else {}
        handles += upper.plot(
            [step for step, _ in accuracy], [value for _, value in accuracy], **look, **dots
        )
        lower.plot([step for step, _ in loss], [value for _, value in loss], **look)
        names.append(
            f"{label} (winner)"
            if wins
            else label
            if row.accuracy is not None
            else f"{label} ({row.candidate.state})"
        )
    if baseline is not None:
        upper.axhline(baseline, color=_GREY, linestyle=(0, (5, 4)), linewidth=1.4, zorder=1)
    _bound_loss(lower, ranking, curves)
    upper.set_title("Validation reward accuracy over steps", loc="left", fontsize=11, color=_INK)
    lower.set_title("Training loss over steps", loc="left", fontsize=11, color=_INK)
    lower.set_xlabel("optimiser steps", color=_INK, fontsize=11)
    upper.tick_params(labelbottom=False)
    for axes in (upper, lower):
        _plain(axes)
        if not any(len(line.get_xdata()) > 1 for line in axes.get_lines()[: len(names)]):
            axes.text(
                0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", color=_GREY
            )
    if handles:
        upper.legend(
            handles, names, title=axis_name, loc="upper left", bbox_to_anchor=(1.015, 1.03), frameon=False,
            fontsize=9.5, title_fontsize=10, labelcolor=_INK, alignment="left", handlelength=1.4,
        )  # fmt: skip


def _bound_loss(axes: Axes, ranking: Ranking, curves: Curves) -> None:
    """Limits from the trials that finished, so that one exploding loss does not flatten the others."""
    finished = [row.candidate.label for row in ranking.rows if row.accuracy is not None]
    values = [
        value for label in finished for _, value in _smooth(_finite(curves.get(label, {}).get(LOSS, ())))
    ]
    if values:
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)


def _finite(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in curve if math.isfinite(value)]


def _smooth(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most SMOOTH_POINTS points, each the mean of a stretch of the curve."""
    stretch = math.ceil(len(curve) / SMOOTH_POINTS)
    if stretch <= 1:
        return list(curve)
    parts = [curve[start : start + stretch] for start in range(0, len(curve), stretch)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b6bcc4")
    axes.tick_params(colors=_GREY, labelsize=9.5, length=3)
