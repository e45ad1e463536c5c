"""The picture of a stage: reward accuracy over its axis, and its trials' curves. The one door to matplotlib."""

from __future__ import annotations

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
        2, 2, width_ratios=(1, 1.05), left=0.055, right=0.885, top=0.855, bottom=0.165, wspace=0.16, hspace=0.12
    )
    colours = _colours(ranking)
    figure.suptitle(title, x=0.055, y=0.965, ha="left", fontsize=16, fontweight="bold", color=_INK)
    figure.text(0.055, 0.893, ranking.reason, ha="left", fontsize=11, color=_GREY)
    _draw_axis(figure.add_subplot(grid[:, 0]), ranking, colours, axis_name, log_axis, baseline)
    upper = figure.add_subplot(grid[0, 1])
    lower = figure.add_subplot(grid[1, 1], sharex=upper)
    _draw_curves(upper, lower, ranking, colours, curves or {}, axis_name, baseline)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _colours(ranking: Ranking) -> dict[str, Any]:
    """Colours along the axis, from cividis: ordered, and the same order for colour-blind eyes."""
    from matplotlib import colormaps

    labels = [row.candidate.label for row in _in_grid_order(ranking.rows)]
    shades = colormaps["viridis"]
    return {label: shades(0.9 * place / max(1, len(labels) - 1)) for place, label in enumerate(labels)}
