"""What all drawings are made of: axes as wide as a phone, scales, bars, and the words beside them.

At 72 points an inch letters are as large as on the page, so they stay readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.comparison.kept import REFERENCE
from benchmarks.comparison.style import LOOKS, Look
from benchmarks.results.sheets import number
from benchmarks.results.spread import Spread

WIDE, HIGH = 5.0, 3.9
"""Inches."""

BAR_HIGH = 0.42
ROOM = 0.3
"""By which share an axis is longer than its longest bar, for the figure beside it."""


@dataclass(frozen=True)
class Chart:
    """A drawing, the chapter it belongs to, and what it shows in words."""

    name: str
    section: str
    caption: str
    says: str
    figure: Figure


def new_axes(title: str, inches_high: float = HIGH) -> tuple[Figure, Axes]:
    """Return an empty drawing; its title begins at its left edge, so that long ones fit."""
    figure = Figure(figsize=(WIDE, inches_high))
    figure.suptitle(title, x=0.01, horizontalalignment="left")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    return figure, axes


def look_of(contender: str) -> Look:
    """Return how a contender is drawn: a variant of pwserver as pwserver is."""
    return LOOKS.get(contender, LOOKS[REFERENCE])


def thousands(axis_value: float, _: int) -> str:
    """Return a number as it stands on an axis; what matplotlib says of its place is not needed."""
    if axis_value >= 1000:
        return f"{axis_value / 1000:g}k" if axis_value < 1e6 else f"{axis_value / 1e6:g}M"
    return f"{axis_value:g}"


def set_logarithmic(axes: Axes, axis: str) -> None:
    """Scale an axis in powers of ten, labelled in plain numbers."""
    getattr(axes, f"set_{axis}scale")("log")
    of = getattr(axes, f"{axis}axis")
    of.set_major_locator(LogLocator(numticks=10))
    of.set_major_formatter(FuncFormatter(thousands))
    of.set_minor_formatter(NullFormatter())


def error_bars(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return how far the rounds reach below and above their medians."""
    return [
        [each.median - each.lowest for each in spreads],
        [each.highest - each.median for each in spreads],
    ]


def bar_chart(
    title: str,
    labels: list[str],
    figures: list[float],
    colours: list[str],
    logarithmic: bool = True,
) -> Figure:
    """Draw a bar for each label, the first on top, with its figure behind it."""
    figure, axes = new_axes(title, BAR_HIGH * len(labels) + 0.9)
    bars = axes.barh(labels, figures, color=colours, height=0.62)
    axes.bar_label(bars, [number(each) for each in figures], padding=4, fontsize=10)
    axes.invert_yaxis()
    if logarithmic:
        set_logarithmic(axes, "x")
        below = 10 ** math.floor(math.log10(min(figures) / 1.5))
        axes.set_xlim(below, max(figures) * (max(figures) / below) ** ROOM)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        axes.set_xlim(0, max(figures) * (1 + ROOM))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return figure
