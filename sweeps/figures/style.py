"""Colours and lines that all figures share, and the writing of figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.storage.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, RULE = "#22262b", "#6b7280", "#e3e6ea"

DASHED: dict[str, Any] = {"color": GREY, "linestyle": (0, (4, 2.5)), "linewidth": 1.4, "zorder": 1}


def new_figure(inches: tuple[float, float], dpi: int, **look: Any) -> Figure:
    """An empty figure, without pyplot, which keeps every figure alive and chooses a backend for the whole process."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=dpi, facecolor="white", **look)
    FigureCanvasAgg(figure)
    return figure


def make_plain(axes: Axes, label_size: float, **grid: Any) -> None:
    """Thin lines behind the data, no frame above and to the right."""
    axes.grid(color=RULE, linewidth=0.8, **grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b6bcc4")
    axes.tick_params(colors=GREY, labelsize=label_size, length=3)


def in_order(labels: Sequence[str]) -> dict[str, Any]:
    """Colours of a grid's labels, from dark to light; the order of viridis is visible to colour-blind eyes too."""
    from matplotlib import colormaps

    # Its bright yellow end is hard to see on white.
    return {label: colormaps["viridis"](0.88 * n / max(1, len(labels) - 1)) for n, label in enumerate(labels)}


def write(figure: Figure, path: Path) -> Path:
    """Write the figure as its path ends, png or svg; returns the path."""
    drawn = io.BytesIO()
    # Without a date the same numbers give the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(drawn, format=path.suffix.removeprefix("."), metadata=metadata)
    write_whole(path, drawn.getvalue())
    return path
