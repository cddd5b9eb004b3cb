"""Bars of what a run kept, as SVG for the page: they begin at 0, and each has its figure beside it.

It is imported only when a page is made, because matplotlib takes a second to load. At 72 points an
inch letters are as large as on the page.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from benchmarks.comparison.kept import REFERENCE, Kept, Measured
from benchmarks.results.sheets import number
from benchmarks.results.spread import Spread

Bars = list[tuple[str, Spread, bool]]
"""What each bar stands for, how long it is, and whether it is pwserver's."""

WIDE, NAMES_LEFT, LETTER_WIDE = 5.0, 0.4, 0.085
TITLE_HIGH, AXIS_HIGH, LINE_HIGH, BAR_SPACE = 0.3, 0.5, 0.17, 0.1
"""Inches."""

NAME_WIDE = 20
"""Letters of a bar's name on a line."""

OURS, THEIRS = "#3987d6", "#8c8c8c"
"""Both can be seen on white and on black."""

INK = "#000000"
STYLE: Any = {  # matplotlib names every key in a type
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "svg.fonttype": "none",  # text stays text, in the font of the page
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def figures(kept: Kept) -> dict[str, list[str]]:
    """Return the drawings of each section, as elements of HTML."""
    with rc_context(STYLE):
        return {section: list(_of_section(kept, section)) for section in kept.sections}


def _of_section(kept: Kept, section: str) -> Iterator[str]:
    measured = kept.of(section)
    if section == "limit":  # in one drawing, because they are to be held against each other
        bars = [(each.name, each.spread, False) for each in kept.figures if each.section == section]
        bars += [(f"{REFERENCE}, {_panel(each)}", each.throughput, True) for each in measured]
        yield _figure("Saved or synced a second", "what", "a second", {"": bars})
    elif section == "start":
        times = [each for each in kept.figures if each.section == section and each.unit == "s"]
        bars = [(each.name, each.spread, True) for each in times]
        yield _figure("How soon it is there", "until", "seconds", {"": bars})
    elif section != "steady":  # a single bar says nothing
        for load in dict.fromkeys(each.point.load for each in measured):
            of_load = [each for each in measured if each.point.load == load]
            title = f"{load}: requests a second"
            yield _of_load(title, "a second", of_load, lambda each: each.throughput)
            if section == "throughput":
                title = f"{load}: 99 % are answered within"
                yield _of_load(title, "ms", of_load, lambda each: each.percentile_ms(99.0))


def _panel(each: Measured) -> str:
    connections, depth, once = each.point.size
    text = f"{connections:,} connection{'s' if connections > 1 else ''}"
    if once:
        return f"{text}, each for one request"
    return f"{text}, {depth} in flight on each" if depth > 1 else text


def _of_load(
    title: str, unit: str, measured: list[Measured], figure: Callable[[Measured], Spread]
) -> str:
    """Draw a load: a panel for each size, and in it a bar for each server, or number of users."""
    by_users = len({each.users for each in measured}) > 1
    panels: dict[str, Bars] = {}
    for each in measured:
        bar = f"{each.users:,}" if by_users else each.contender.removeprefix(f"{REFERENCE}, ")
        ours = each.contender.startswith(REFERENCE)
        panels.setdefault(_panel(each), []).append((bar, figure(each), ours))
    return _figure(title, "users in the book" if by_users else "server", unit, panels)


def _figure(title: str, kind: str, unit: str, panels: dict[str, Bars]) -> str:
    """Draw panels one below the other, and say the same in words to who cannot see them."""
    names = {bar: textwrap.fill(bar, NAME_WIDE) for bars in panels.values() for bar, *_ in bars}
    lines = [name.split("\n") for name in names.values()]
    left = NAMES_LEFT + LETTER_WIDE * max(len(line) for name in lines for line in name)
    bar_high = LINE_HIGH * max(map(len, lines)) + BAR_SPACE
    highs = [bar_high * len(bars) for bars in panels.values()]
    high = sum(highs) + (TITLE_HIGH + AXIS_HIGH) * len(panels)
    drawing, said, bottom = Figure(figsize=(WIDE, high)), [f"{title}."], high
    for (name, bars), its_high in zip(panels.items(), highs, strict=True):
        bottom -= TITLE_HIGH + its_high
        place = left / WIDE, bottom / high, 0.97 - left / WIDE, its_high / high
        bottom -= AXIS_HIGH
        axes = drawing.add_axes(place)
        _draw(axes, bars)
        axes.set_yticks(range(len(bars)), [names[bar] for bar, *_ in bars])
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_xlabel(unit)
        axes.set_ylabel(kind)
        axes.yaxis.set_label_coords(-(left - 0.15) / (0.97 * WIDE - left), 0.5)
        said.append(f"{name}: {', '.join(f'{bar} {number(of.median)}' for bar, of, _ in bars)}.")
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return f"<figure>{caption}{_svg(drawing, ' '.join(said))}</figure>"


def _draw(axes: Axes, bars: Bars) -> None:
    """Draw the medians, with the range of the rounds as a line."""
    medians = [of.median for _, of, _ in bars]
    ranges = [
        [of.median - of.lowest for _, of, _ in bars],
        [of.highest - of.median for _, of, _ in bars],
    ]
    colours = [OURS if ours else THEIRS for _, _, ours in bars]
    places = range(len(bars))
    drawn = axes.barh(places, medians, color=colours, xerr=ranges, ecolor=INK, height=0.7)
    axes.bar_label(drawn, [number(each) for each in medians], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(of.highest for _, of, _ in bars) or 1)  # 1 if nothing was answered
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _svg(drawing: Figure, says: str) -> str:
    """Return a drawing as part of a page: in its colour of text, with ids that no other one has."""
    file = io.StringIO()
    drawing.savefig(file, format="svg", transparent=True, metadata=NO_METADATA)
    text = file.getvalue()
    text = re.sub(r' id="[\w.]+_\d+"', "", text[text.index("<svg") :])  # nothing refers to these
    text = text.replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(says)}"', 1)
