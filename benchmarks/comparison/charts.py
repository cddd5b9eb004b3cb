"""Draws what a run kept: charts of matplotlib, each with a text for who cannot see it.

Imported only when a page is made, because matplotlib takes a second to load. `drawing.py` has what
charts are made of and `style.py` how they look; those of contenders are in `charts_contest.py`, and
those of pwserver alone in `charts_alone.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes

from benchmarks.comparison.aims import Held, held
from benchmarks.comparison.charts_alone import growth, limit, workers
from benchmarks.comparison.charts_contest import (
    against_connections,
    bars_of_contenders,
    distribution,
)
from benchmarks.comparison.drawing import Chart, new_axes, set_logarithmic
from benchmarks.comparison.kept import REFERENCE, Kept
from benchmarks.comparison.style import LOOKS

AIM_HIGH = 0.3
"""Inches."""


def draw(kept: Kept) -> list[Chart]:
    """Draw all that a run has the figures for; to be called with the style of `style.py` set."""
    return [chart for drawn in DRAWINGS for chart in drawn(kept)]


def _aims(kept: Kept) -> Iterator[Chart]:
    ratios = [each for each in held(kept) if not each.aim.unit and each.measured]
    if not ratios:
        return
    figure, axes = new_axes(
        "Measured, as multiples of what it must be", AIM_HIGH * len(ratios) + 1.2
    )
    for place, each in enumerate(reversed(ratios)):
        _aim(axes, place, each)
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_yticks(range(len(ratios)), [each.aim.what for each in reversed(ratios)], fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(-0.7, len(ratios) - 0.3)
    set_logarithmic(axes, "x")
    said = ", ".join(f"{each.aim.what} {_of_aim(each):.2f}" for each in ratios)
    says = f"Medians as multiples of their aim: {said}."
    caption = (
        "A circle is reached, at 1 or right of it, and a cross is not; the line is the range of "
        "the rounds; logarithmic scale"
    )
    yield Chart("aims", "aims", caption, says, figure)


def _of_aim(each: Held) -> float:
    return each.measured.median / each.aim.bound if each.measured else 0.0


def _aim(axes: Axes, place: int, each: Held) -> None:
    assert each.measured is not None
    colour = LOOKS[REFERENCE].colour if each.reached else LOOKS["redis"].colour
    ends = each.measured.lowest / each.aim.bound, each.measured.highest / each.aim.bound
    axes.plot(ends, (place, place), color=colour, linewidth=2.2, solid_capstyle="butt")
    marker = "o" if each.reached else "X"
    axes.plot(_of_aim(each), place, marker=marker, color=colour, markersize=7)


DRAWINGS = (
    _aims,
    bars_of_contenders,
    against_connections,
    distribution,
    growth,
    workers,
    limit,
)
