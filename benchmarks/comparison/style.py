"""How charts look: the same colour, marker and line for a contender wherever it is drawn.

The colours are those of Okabe and Ito, which the colour-blind tell apart
(https://jfly.uni-koeln.de/color/); markers and lines differ as well, for paper without colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INK, GRID = "#1a1a1a", "#d9d9d9"


@dataclass(frozen=True)
class Look:
    """What a contender is drawn with."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


LOOKS = {
    "pwserver": Look("#0072B2", "o", "-"),
    "redis": Look("#D55E00", "s", "--"),
    "postgres": Look("#009E73", "^", "-."),
    "fastapi": Look("#CC79A7", "D", ":"),
    "gunicorn": Look("#B58900", "v", (0, (5, 1, 1, 1, 1, 1))),
    "baseline": Look("#666666", "x", (0, (1, 1))),
}

LOAD_LOOKS = {
    "count": Look(INK, "s", "--"),
    "save": Look("#0072B2", "o", "-"),
    "get": Look("#56B4E9", "^", "-."),
}
"""The loads, where all lines are pwserver's."""

CHART_STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.family": "sans-serif",
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 10,
    "ytick.color": INK,
    "ytick.labelsize": 10,
}
"""Text stays text, in the font of the page, so that it can be read aloud, found and selected."""
