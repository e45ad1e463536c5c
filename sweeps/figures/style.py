"""Colours and lines that all pictures share."""

from __future__ import annotations

from typing import Any

INK, GREY, RULE = "#22262b", "#6b7280", "#e3e6ea"


DASHED: dict[str, Any] = {"color": GREY, "linestyle": (0, (4, 2.5)), "linewidth": 1.4, "zorder": 1}
