"""Colours and lines that all figures share, and the writing of figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.storage.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GREY, RULE = "#22262b", "#6b7280", "#e3e6ea"

DASHED: dict[str, Any] = {"color": GREY, "linestyle": (0, (4, 2.5)), "linewidth": 1.4, "zorder": 1}


def write(figure: Figure, path: Path) -> Path:
    """Write the figure as its path ends, png or svg; returns the path."""
    drawn = io.BytesIO()
    # Without a date the same numbers give the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(drawn, format=path.suffix.removeprefix("."), metadata=metadata)
    write_whole(path, drawn.getvalue())
    return path
