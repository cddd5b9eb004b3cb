"""The charts of pwserver alone, and of what is possible."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.ticker import FuncFormatter

from benchmarks.comparison.ceiling import OVERWRITTEN, rows
from benchmarks.comparison.drawing import Chart, bar_chart, error_bars, new_axes, thousands
from benchmarks.comparison.kept import REFERENCE, Kept
from benchmarks.comparison.style import LOAD_LOOKS, LOOKS
from benchmarks.limit import BATCHES
from benchmarks.results.sheets import number, size


def growth(kept: Kept) -> Iterator[Chart]:
    """Draw requests a second against the users in the book."""
    measured = kept.of("growth")
    if not measured:
        return
    levels = sorted({each.users for each in measured})
    figure, axes = new_axes("pwserver, 64 connections: requests a second")
    for load, look in LOAD_LOOKS.items():
        of_load = [each for each in measured if each.point.load == load]
        spreads = [each.throughput for each in of_load]
        axes.errorbar(
            [levels.index(each.users) for each in of_load],
            [each.median for each in spreads],
            error_bars(spreads),
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            label=load,
            capsize=2,
            elinewidth=1,
        )
    axes.set_xticks(range(len(levels)), [thousands(users, 0) for users in levels])
    axes.yaxis.set_major_formatter(FuncFormatter(thousands))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("users in the book")
    figure.legend(loc="outside lower center", ncols=3)
    said = ", ".join(
        f"{each.point.load} {number(each.throughput.median)} with {each.users:,} users"
        for each in measured
    )
    caption = "The scale begins at 0; the bars are the range of the rounds"
    yield Chart("growth", "growth", caption, f"Requests a second: {said}.", figure)


def workers(kept: Kept) -> Iterator[Chart]:
    """Draw requests a second for each number of workers."""
    measured = kept.of("workers")
    if measured:
        labels, figures = [], []
        for each in sorted(measured, key=lambda one: (one.point.load, *one.point.size)):
            workers = each.contender.partition(", ")[2]
            labels.append(f"{each.point.load} {size(each.point.size)}, {workers}")
            figures.append(each.throughput.median)
        title = "pwserver, requests a second"
        figure = bar_chart(title, labels, figures, [LOOKS[REFERENCE].colour] * len(labels), False)
        pairs = zip(labels, figures, strict=True)
        said = ", ".join(f"{label} {number(rate)}" for label, rate in pairs)
        yield Chart("workers", "workers", "Medians of the rounds", f"{said}.", figure)


def limit(kept: Kept) -> Iterator[Chart]:
    """Draw what commits allow, and what pwserver makes of it."""
    named = [(rows(batch), kept.figure("limit", rows(batch))) for batch in BATCHES]
    named.append((OVERWRITTEN, kept.figure("limit", OVERWRITTEN)))
    bare, ours = "#999999", LOOKS[REFERENCE].colour
    bars = [(name, found.median, bare) for name, found in named if found]
    bars += [
        (f"{each.contender}, {size(each.point.size)}", each.throughput.median, ours)
        for each in kept.of("limit")
    ]
    if bars:
        labels, figures, colours = (list(column) for column in zip(*bars, strict=True))
        title = "A second: one process and its commits"
        figure = bar_chart(title, labels, figures, colours)
        said = ", ".join(f"{name} {number(rate)}" for name, rate, _ in bars)
        caption = "Medians on a logarithmic scale; grey: no sockets, no sealing"
        yield Chart("limit", "limit", caption, f"{title}: {said}.", figure)
