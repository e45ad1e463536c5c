"""The report's figures: harness accuracy against win rate over epochs, and reward accuracy over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.figures.style import GREY, INK, make_plain, new_figure, write
from sweeps.ranking.noise import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without the yellow, which is hard to see on white.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#4d4d4d")
OF_BETA = {"0.01": PALETTE[0], "0.05": PALETTE[1], "0.1": PALETTE[2], "0.5": PALETTE[3]}
"""Colours of the paper's betas, the same in every figure."""
_LINE = 0.052
"""Height of a legend's line, as a share of a trade-off's axes."""
MANY = 13
"""More lines than these are drawn finer, and not all of them named."""
_SHAPES = (("o", "-"), ("s", (0, (5, 2))), ("^", (0, (1, 1.5))))


@dataclass(frozen=True)
class Trajectory:
    """One line of a trade-off, with a point for each epoch that has both numbers."""

    label: str
    """The meaning of its colour."""
    group: str
    """The meaning of its shape: the objective."""
    epochs: tuple[tuple[int, Measured, Measured], ...]
    """(epoch, win rate, harness accuracy) in order, without epochs that lack one of the two."""


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label. The paper's betas always have the same colours."""
    fixed = {label: OF_BETA[label] for label in labels if label in OF_BETA}
    free = [colour for colour in PALETTE if colour not in fixed.values()]
    rest = [label for label in dict.fromkeys(labels) if label not in fixed]
    return fixed | {label: free[number % len(free)] for number, label in enumerate(rest)}


def draw_trade_off(
    path: Path,
    *,
    title: str,
    rate_name: str,
    called: str,
    colours: Mapping[str, Any],
    trajectories: Sequence[Trajectory],
    baseline: float | None,
) -> Path:
    """Path of the PNG, beside which an SVG is written: LM Harness accuracy over win rate, in percent.

    Arrows go from epoch to epoch, but not across a missing one. Markers have the epoch's number, bars one standard
    error each way (or the deviation over seeds). Dashed lines: the starting model's harness accuracy, if known, and the
    win rate of 50% that its own answers would have. A hollow marker is a win rate that has a mark.
    """
    figure, axes = _figure(title, 6)
    labels = list(dict.fromkeys(one.label for one in trajectories))
    groups = list(dict.fromkeys(one.group for one in trajectories))
    for one in trajectories:
        shape, dashes = _SHAPES[groups.index(one.group) % len(_SHAPES)]
        _draw_trajectory(axes, one, colours[one.label], shape, dashes)
    even: dict[str, Any] = {"color": GREY, "linestyle": (0, (4, 2.5)), "linewidth": 1.1}
    starting = [("win rate 50", even)]
    axes.axvline(50, **even, zorder=1)
    if baseline is not None:
        dotted: dict[str, Any] = {"color": GREY, "linestyle": (0, (1, 2)), "linewidth": 1.6}
        axes.axhline(100 * baseline, **dotted, zorder=1)
        starting.insert(0, (f"harness {100 * baseline:.2f}", dotted))
    if not any(one.epochs for one in trajectories):
        _say_nothing(axes, "no epoch has both numbers")
    axes.set_xlabel(f"AlpacaEval 2, {rate_name} against the starting model (%)", size=11, color=INK)
    axes.set_ylabel("LM Harness, mean accuracy (%)", size=11, color=INK)
    axes.margins(0.09)
    shown = _sparse([(label, {"color": colours[label], "linewidth": 1.8}) for label in labels])
    _legend(axes, shown, called, 1.0)
    look = {"color": INK, "linewidth": 1.4, "markersize": 9}
    shapes = [(group, look | dict(zip(("marker", "linestyle"), _SHAPES[n % 3]))) for n, group in enumerate(groups)]
    if any(x.mark for one in trajectories for _, x, _ in one.epochs):
        hollow = {"color": INK, "linestyle": "none", "marker": "o", "markersize": 9, "markerfacecolor": "white"}
        shapes.append(("hollow: raw win rate", hollow))
    down = 1.0 - _LINE * (len(shown) + 2)
    _legend(axes, shapes, "objective", down)
    _legend(axes, starting, "starting model (SFT)", down - _LINE * (len(shapes) + 2))
    write(figure, path.with_suffix(".svg"))
    return write(figure, path.with_suffix(".png"))


def _draw_trajectory(axes: Axes, one: Trajectory, colour: str, shape: str, dashes: Any) -> None:
    for (epoch, x, y), (next_epoch, next_x, next_y) in zip(one.epochs, one.epochs[1:]):
        if next_epoch == epoch + 1:
            look = {"color": colour, "linestyle": dashes, "linewidth": 1.5, "shrinkA": 7, "shrinkB": 6}
            start, end = (100 * x.value, 100 * y.value), (100 * next_x.value, 100 * next_y.value)
            axes.annotate("", end, start, arrowprops=look | {"arrowstyle": "-|>"}, zorder=3)
    for epoch, x, y in one.epochs:
        at = (100 * x.value, 100 * y.value)
        axes.errorbar(*at, xerr=_bar(x), yerr=_bar(y), color=colour, alpha=0.3, elinewidth=1.2, capsize=0, zorder=2)
        face, edge = ("white", colour) if x.mark else (colour, "white")
        look = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 1.6 if x.mark else 0.8}
        axes.plot(*at, shape, color=colour, markersize=12, **look, zorder=4)
        number: dict[str, Any] = {"ha": "center", "va": "center_baseline", "weight": "bold", "color": edge}
        axes.annotate(str(epoch), at, size=7.5, zorder=5, **number)


def _bar(measured: Measured) -> float | None:
    return None if measured.noise is None else 100 * measured.noise


@dataclass(frozen=True)
class Curve:
    """Validation reward accuracy of one point of a stage over its steps."""

    label: str
    steps: tuple[tuple[int, float, float], ...]
    """(step, mean over seeds, standard deviation over seeds or 0)."""


def draw_curves(
    path: Path,
    *,
    title: str,
    called: str,
    curves: Sequence[Curve],
    colours: Mapping[str, Any],
    baseline: float | None,
    winner: str = "",
) -> Path:
    """Path of the PNG, beside which an SVG is written: a line for each point with a band of one deviation over seeds.

    The dashed line is the starting model, the thick one the winner. Others are drawn over it and show.
    """
    figure, axes = _figure(title, 4.2)
    named: list[tuple[str, dict[str, Any]]] = []
    for curve in curves:
        width, order = (3.6, 2.5) if curve.label == winner else (1.3 if len(curves) <= MANY else 0.9, 3)
        steps, means = [step for step, _, _ in curve.steps], [100 * value for _, value, _ in curve.steps]
        bands = [100 * deviation for _, _, deviation in curve.steps]
        marker, colour = "o" if len(steps) <= (12 if len(curves) <= MANY else 1) else "", colours[curve.label]
        axes.plot(steps, means, marker=marker, markersize=4.5, color=colour, linewidth=width, zorder=order)
        if any(bands):
            low, high = ([m + sign * b for m, b in zip(means, bands)] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
        ending = " (winner)" if curve.label == winner else "" if curve.steps else " (nothing logged)"
        named.append((curve.label + ending, {"color": colour, "linewidth": 3.6 if curve.label == winner else 1.3}))
    named = _sparse(named)
    if baseline is not None:
        dashed: dict[str, Any] = {"color": GREY, "linestyle": (0, (4, 2.5)), "linewidth": 1.2}
        axes.axhline(100 * baseline, **dashed, zorder=1)
        named.append((f"SFT {100 * baseline:.1f}", dashed))
    if not any(curve.steps for curve in curves):
        _say_nothing(axes, "nothing logged")
    axes.set_xlabel("optimiser steps", size=11, color=INK)
    axes.set_ylabel("validation reward accuracy (%)", size=11, color=INK)
    _legend(axes, named, called, 1.0)
    write(figure, path.with_suffix(".svg"))
    return write(figure, path.with_suffix(".png"))


def _sparse(named: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Of more labels than a legend has room for: evenly spread ones and the thickest, and how many are left out."""
    if len(named) <= MANY:
        return named
    kept = {round(place * (len(named) - 1) / (MANY - 3)) for place in range(MANY - 2)}
    kept.add(max(range(len(named)), key=lambda place: named[place][1]["linewidth"]))
    left_out = (f"and {len(named) - len(kept)} between these", {"linewidth": 0})
    return [named[place] for place in sorted(kept)] + [left_out]


def _figure(title: str, inches_high: float) -> tuple[Figure, Axes]:
    figure = new_figure((11, inches_high), 120)
    bottom, top = 0.66 / inches_high, 1 - 0.6 / inches_high
    axes = figure.add_axes((0.075, bottom, 0.7, top - bottom))
    axes.set_title(title, loc="left", size=13, weight="bold", color=INK, parse_math=False, pad=10)
    make_plain(axes, 10)
    return figure, axes


def _legend(axes: Axes, named: Sequence[tuple[str, dict[str, Any]]], title: str, top: float) -> None:
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

    lines, names = [Line2D([], [], **look) for _, look in named], [name for name, _ in named]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, top), "borderaxespad": 0}
    look: dict[str, Any] = {"alignment": "left", "frameon": False, "fontsize": 10, "title_fontsize": 10}
    axes.add_artist(Legend(axes, lines, names, title=title, labelcolor=INK, handlelength=2.2, **place, **look))


def _say_nothing(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, size=11)
