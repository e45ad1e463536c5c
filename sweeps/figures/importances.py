"""The figure of the hyper-parameters' importances in a joint search."""

from collections.abc import Mapping
from pathlib import Path

from sweeps.figures.style import new_figure, write

_COLOURS = ("#3b528b", "#b5b5b5")


def plot_importances(path: Path, *, title: str, importances: Mapping[str, Mapping[str, float]]) -> Path:
    """Path of the PNG: a bar for each field and kind of score, as shares of the variance from 0 to 1."""
    figure = new_figure((8, 3.4), 100, layout="constrained")
    axes = figure.add_subplot()
    names = list(next(iter(importances.values())))
    height = 0.8 / len(importances)
    for place, (kind, shares) in enumerate(importances.items()):
        middles = [row + (place - (len(importances) - 1) / 2) * height for row in range(len(names))]
        bars = axes.barh(middles, [shares[name] for name in names], height, label=kind, color=_COLOURS[place % 2])
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("share of the variance of reward accuracy (fANOVA)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return write(figure, path)
