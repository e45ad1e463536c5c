"""The figure of a stage: reward accuracy over its axis, and its trials' curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mmpo_train.metric_names import ACCURACY_CURVE, LOSS
from sweeps.figures.style import DASHED, GREY, INK, RULE, in_order, make_plain, new_figure, write
from sweeps.ranking.ranked import Ranked, Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Trial label -> metric -> points (step, value)."""

SMOOTH_POINTS = 120
"""A longer loss curve is drawn as means over this many equal stretches."""
CHARACTER_SHARE = 0.017
"""Width of one character of a tick's label, as a share of the left panel's axis."""
MANY = 16
"""With more trials marks and lines are thin, and only so many have a name."""


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
    """Path of the PNG, of 1400 x 600 pixels.

    Left: reward accuracy of each point's best epoch with Wilson's 95% interval, or its standard deviation over seeds.
    A ring marks the winner, hollow points do not differ significantly from it, crosses have no result, and the dashed
    line is the starting model (SFT). Points whose scores differ are not joined, and each has a dash for the starting
    model by its own score. Right: reward accuracy and training loss over steps, in the same colours; the thick line is
    the winner's. More than MANY trials are drawn thinly, to scale where they are numbers, and every so many has a name.
    """
    figure, left = new_figure((14, 6), 100), 0.055
    edges: dict[str, Any] = {"left": left, "right": 0.86, "top": 0.8, "bottom": 0.16}
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.05), wspace=0.15, hspace=0.28, **edges)
    reason = "\n".join(textwrap.wrap(ranking.reason, 140, max_lines=2, placeholder=" …"))
    figure.text(left, 0.97, _cut(title, 100), va="top", size=16, weight="bold", color=INK, parse_math=False)
    figure.text(left, 0.905, reason, va="top", size=11, color=GREY, parse_math=False)
    rows = _along_axis(ranking.rows)
    colours = in_order([row.candidate.label for row in rows])
    baseline = None if ranking.scores_differ or ranking.by else baseline
    _draw_axis(figure.add_subplot(grid[:, 0]), rows, colours, ranking, baseline, axis_name, log_axis)
    upper = figure.add_subplot(grid[0, 1])
    lower = figure.add_subplot(grid[1, 1], sharex=upper)
    lines = _draw_curves(upper, ACCURACY_CURVE, rows, colours, ranking, curves or {}, baseline)
    _draw_curves(lower, LOSS, rows, colours, ranking, curves or {}, None)
    upper.set_title("Validation reward accuracy over steps", loc="left", size=11, color=INK)
    lower.set_title("Training loss over steps", loc="left", size=11, color=INK)
    lower.set_xlabel("optimiser steps", size=11, color=INK)
    upper.tick_params(labelbottom=False)
    _legend(upper, lines, title=axis_name, loc="upper left", bbox_to_anchor=(1.015, 1.04), alignment="left")
    return write(figure, path)


def _along_axis(rows: Sequence[Ranked]) -> list[Ranked]:
    """The rows along the axis: numbers in order, then words in order of rank."""
    numbers = [row for row in rows if not isinstance(row.candidate.value, str)]
    words = [row for row in rows if isinstance(row.candidate.value, str)]
    return sorted(numbers, key=lambda row: row.candidate.value) + words


def _positions(rows: Sequence[Ranked], log_axis: bool) -> tuple[list[float], bool]:
    """The trials' positions on the axis, and whether they are to scale.

    Words, and a few numbers so close that their labels would collide, are spaced evenly.
    """
    evenly = [float(place) for place in range(len(rows))]
    numbers = [row.candidate.value for row in rows if not isinstance(row.candidate.value, str)]
    if len(numbers) < len(rows) or (log_axis and min(numbers, default=1.0) <= 0):
        return evenly, False
    places = [math.log10(number) if log_axis else float(number) for number in numbers]
    if len(rows) > MANY:  # most have no label
        return places, places[-1] > places[0]
    for (at, row), (next_at, next_row) in pairwise(zip(places, rows, strict=True)):
        characters = 1 + (len(row.candidate.label) + len(next_row.candidate.label)) / 2
        if next_at - at <= characters * CHARACTER_SHARE * (places[-1] - places[0]):
            return evenly, False
    return places, True


def _draw_axis(
    axes: Axes,
    rows: Sequence[Ranked],
    colours: Mapping[str, Any],
    ranking: Ranking,
    baseline: float | None,
    axis_name: str,
    log_axis: bool,
) -> None:
    places, to_scale = _positions(rows, log_axis)
    named: dict[str, Line2D] = {}
    scored = [(x, row.accuracy, row) for x, row in zip(places, rows, strict=True) if row.accuracy is not None]
    winner, many = ranking.winner, len(rows) > MANY
    if not ranking.scores_differ and not many:  # a line would compare what cannot be compared
        axes.plot([x for x, _, _ in scored], [share for _, share, _ in scored], color=RULE, linewidth=1.6, zorder=1)
    if winner is not None:
        chosen = "choice of score (Appendix B.1)" if ranking.scores_differ else "winner"
        named[chosen] = _mark("o", size=12, face="none", edge=1.8, color=INK)
    bars = [(x, *row.bar, colours[row.candidate.label]) for x, _, row in scored if row.bar is not None]
    if bars:
        at, low, high, of = zip(*bars, strict=True)
        axes.vlines(at, low, high, colors=of, linewidth=0.6 if many else 2, alpha=0.3 if many else 1, zorder=2)
    size, edge = (3, 1) if many else (8.5, 2)
    for x, share, row in scored:
        colour = colours[row.candidate.label]
        if ranking.scores_differ and row.candidate.start is not None:
            axes.add_line(_mark("_", size=2 * size, edge=edge, color=GREY, at=(x, row.candidate.start)))
            named["starting model by the same score"] = _mark("_", size=12, edge=2, color=GREY)
        face = "white" if row.near_winner else colour
        axes.add_line(_mark("o", size=size, face=face, edge=edge, color=colour, at=(x, share)))
        if row is winner:
            axes.add_line(_mark("o", size=18, face="none", edge=1.8, color=INK, at=(x, share)))
            number: dict[str, Any] = {"ha": "center", "weight": "bold", "color": INK, "textcoords": "offset points"}
            axes.annotate(f"{share:.3f}", (x, row.bar[1] if row.bar else share), (0, 5), **number)
        elif row.near_winner:
            named["no significant difference (5%)"] = _mark("o", size=8, face="white", edge=2, color=GREY)
    if baseline is not None:
        named[f"SFT baseline {baseline:.3f}"] = axes.axhline(baseline, **DASHED)
    for x, row in zip(places, rows, strict=True):
        if row.accuracy is None:
            shape = "x" if row.candidate.state == "diverged" else "+"
            named[row.candidate.state] = _mark(shape, size=8, edge=2.2, color=GREY)
            cross = _mark(shape, size=size, edge=edge, color=colours[row.candidate.label], at=(x, 0.045))
            cross.set_transform(axes.get_xaxis_transform())  # in shares of the height: at the bottom
            axes.add_line(cross)
    bounds = [bound for _, share, row in scored for bound in row.bar or (share,)]
    bounds += [row.candidate.start for _, _, row in scored if ranking.scores_differ and row.candidate.start is not None]
    bounds += [] if baseline is None else [baseline]
    _limit(axes, places, bounds, room_below=len(scored) < len(rows))
    _label_ticks(axes, places, [row.candidate.label for row in rows], to_scale)
    words = any(isinstance(row.candidate.value, str) for row in rows)
    scale = ("log scale" if log_axis else "") if to_scale else "" if words else "not to scale"
    axes.set_xlabel(f"{axis_name} ({scale})" if scale else axis_name, size=11, color=INK)
    seeds = max((len(row.seeds) for row in rows), default=1)
    range_of = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "95% interval"
    measure = ranking.by or ("Own reward accuracy" if ranking.scores_differ else "Reward accuracy")
    axes.set_title(f"{measure}, best epoch, {range_of}", loc="left", size=11, color=INK)
    make_plain(axes, 9.5, axis="y")
    _legend(axes, list(named.items()), loc="upper center", bbox_to_anchor=(0.5, -0.125), ncols=max(1, len(named)))


def _limit(axes: Axes, places: Sequence[float], bounds: Sequence[float], room_below: bool) -> None:
    """Set limits with room for the winner's number above and for crosses below."""
    low, high = (min(bounds), max(bounds)) if bounds else (0.0, 1.0)
    span = max(high - low, 0.02)
    axes.set_ylim(low - span * (0.22 if room_below else 0.08), high + span * 0.13)
    if not bounds:
        axes.set_yticks([])
    if places:
        margin = 0.07 * (places[-1] - places[0]) or 0.5
        axes.set_xlim(places[0] - margin, places[-1] + margin)


def _label_ticks(axes: Axes, places: Sequence[float], labels: Sequence[str], to_scale: bool) -> None:
    """Label the ticks with the trials' labels, cut where they would overlap; of many, those that have room."""
    room = max(map(len, labels), default=0)
    if len(labels) > MANY:
        room, shown = min(room, MANY), [0]
        apart = (room + 1) * CHARACTER_SHARE * (places[-1] - places[0])
        for at, place in enumerate(places):
            shown += [at] if place - places[shown[-1]] > apart else []
        places, labels = [places[at] for at in shown], [labels[at] for at in shown]
    elif not to_scale:
        room = int(0.86 / CHARACTER_SHARE / max(1, len(labels) - 1)) - 1
    axes.set_xticks(places, [_cut(label, room) for label in labels])


def _draw_curves(
    axes: Axes,
    metric: str,
    rows: Sequence[Ranked],
    colours: Mapping[str, Any],
    ranking: Ranking,
    curves: Curves,
    baseline: float | None,
) -> list[tuple[str, Line2D]]:
    """The legend's names of the lines, after drawing one metric of every trial."""
    named = []
    finished = []
    anything = False
    winner, chosen = ranking.winner, "chosen" if ranking.scores_differ else "winner"
    many, every = len(rows) > MANY, math.ceil(len(rows) / (MANY - 3))
    for number, row in enumerate(rows):
        label = row.candidate.label
        logged = curves.get(label, {}).get(metric, ())
        curve = _smooth([(step, value) for step, value in logged if math.isfinite(value)])
        anything = anything or bool(curve)
        marker = "o" if len(curve) <= 12 else ""
        width, alpha, order = (2.8, 1, 3) if row is winner else (0.5, 0.4, 2) if many else (1.5, 1, 2)
        steps, values = [step for step, _ in curve], [value for _, value in curve]
        look: dict[str, Any] = {"color": colours[label], "linewidth": width, "alpha": alpha, "zorder": order}
        (line,) = axes.plot(steps, values, marker=marker, markersize=1.5 if many else 4.5, **look)
        ending = f" ({chosen})" if row is winner else f" ({row.candidate.state})" if row.accuracy is None else ""
        if row is winner or number % every == 0:
            shown = _line(colours[label], max(width, 1.5)) if many else line
            named.append((_cut(label, 19 - len(ending)) + ending, shown))
        finished += values if row.accuracy is not None else []
    if len(named) < len(rows):
        named.append((f"and {len(rows) - len(named)} others", _line("none", 0)))
    if baseline is not None and anything:
        axes.axhline(baseline, **DASHED)
        finished += [baseline] if finished else []
    if finished:
        # Limits from trials that finished: one exploding loss would flatten all others.
        margin = 0.08 * (max(finished) - min(finished)) or 0.1
        axes.set_ylim(min(finished) - margin, max(finished) + margin)
    make_plain(axes, 9.5, axis="y")
    if not anything:
        axes.set_yticks([])
        axes.tick_params(axis="x", length=0, labelbottom=False)  # not set_xticks: the axis is shared
        why = "in the run of the training that all points share" if ranking.is_one_model else "nothing logged"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY)
    return named


def _smooth(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most SMOOTH_POINTS points, each the mean of a stretch of the curve."""
    stretch = max(1, math.ceil(len(curve) / SMOOTH_POINTS))
    parts = [curve[start : start + stretch] for start in range(0, len(curve), stretch)]
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in parts]


def _line(color: Any, width: float) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linewidth=width)


def _mark(
    shape: str, *, size: float, edge: float, color: Any, face: Any = None, at: tuple[float, float] | None = None
) -> Line2D:
    from matplotlib.lines import Line2D

    xs, ys = ([], []) if at is None else ([at[0]], [at[1]])
    look: dict[str, Any] = {"color": color, "markerfacecolor": color if face is None else face}
    return Line2D(xs, ys, linestyle="none", marker=shape, markersize=size, markeredgewidth=edge, zorder=4, **look)


def _cut(label: str, characters: int) -> str:
    return label if len(label) <= characters else label[: max(1, characters - 1)] + "…"


def _legend(axes: Axes, named: Sequence[tuple[str, Line2D]], **place: Any) -> None:
    if named:
        names, lines = zip(*named, strict=True)
        look: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "title_fontsize": 10, "labelcolor": INK}
        axes.legend(lines, names, handlelength=1.9, handletextpad=0.6, columnspacing=1.5, **look, **place)
