"""The charts in which contenders stand beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.client.wire import Point
from benchmarks.comparison.aims import COUNT, SAVE
from benchmarks.comparison.bench import ANEW
from benchmarks.comparison.drawing import (
    Chart,
    bar_chart,
    error_bars,
    look_of,
    new_axes,
    set_logarithmic,
)
from benchmarks.comparison.kept import DISTRIBUTION, REFERENCE, Kept, Measured, contenders_in
from benchmarks.results.sheets import number, size
from benchmarks.results.spread import Spread

# --- Against connections. ---


def against_connections(kept: Kept) -> Iterator[Chart]:
    """Draw, for each load, requests a second and latency against connections."""
    measured = kept.of("throughput")
    for load in dict.fromkeys(each.point.load for each in measured):
        of_load = [each for each in measured if each.point.load == load]
        for what, of_one in (("throughput", _throughput), ("p99", _p99)):
            unit = "requests a second" if what == "throughput" else "p99 latency, ms"
            figure, axes = new_axes(f"{load}: {unit}")
            for name in contenders_in(of_load):
                _line(axes, [each for each in of_load if each.contender == name], of_one)
            set_logarithmic(axes, "y")
            _connections_axis(axes, of_load)
            figure.legend(loc="outside lower center", ncols=3)
            says = f"{load}, {unit} against connections. {_said(of_load, of_one)}"
            yield Chart(f"{what}-{load}", "throughput", _CAPTION, says, figure)


_CAPTION = "Logarithmic scales; the bars are the range of the rounds; hollow: 64 in flight on each"


def _throughput(each: Measured) -> Spread:
    return each.throughput


def _p99(each: Measured) -> Spread:
    return each.percentile_ms(99.0)


def _line(axes: Axes, of_one: list[Measured], figure: Callable[[Measured], Spread]) -> None:
    """Draw a contender's line, and its pipelined points apart from it."""
    look = look_of(of_one[0].contender)
    single = [each for each in of_one if each.point.depth == 1]
    deep = [each for each in of_one if each.point.depth > 1]
    for chosen, line, face, label in (
        (single, look.line, look.colour, of_one[0].contender),
        (deep, "none", "white", None),
    ):
        spreads = [figure(each) for each in chosen]
        if spreads:
            axes.errorbar(
                [each.point.connections for each in chosen],
                [each.median for each in spreads],
                error_bars(spreads),
                color=look.colour,
                marker=look.marker,
                linestyle=line,
                markerfacecolor=face,
                label=label,
                capsize=2,
                elinewidth=1,
                zorder=3 if of_one[0].contender == REFERENCE else 2,  # on top where lines meet
            )


def _connections_axis(axes: Axes, measured: list[Measured]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({each.point.connections for each in measured}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("connections")


def _said(measured: list[Measured], figure: Callable[[Measured], Spread]) -> str:
    """Put a chart into words: each contender's figures, size by size."""
    sentences = []
    for name in contenders_in(measured):
        of_one = [each for each in measured if each.contender == name]
        figures = [f"{number(figure(each).median)} at {size(each.point.size)}" for each in of_one]
        sentences.append(f"{name}: {', '.join(figures)}.")
    return " ".join(sentences)


# --- Latencies. ---


def distribution(kept: Kept) -> Iterator[Chart]:
    """Draw the latencies of saves from the usual one to the rarest."""
    measured = [each for each in kept.of("throughput") if each.point == SAVE]
    if not measured:
        return
    figure, axes = new_axes("save, 64 connections: latency, ms")
    for each in measured:
        look = look_of(each.contender)
        axes.plot(
            [1 / (1 - percent / 100) for percent in DISTRIBUTION],
            [each.distribution[percent] for percent in DISTRIBUTION],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            label=each.contender,
        )
    axes.set_xscale("log")
    marks = (50.0, 90.0, 99.0, 99.9, 99.99)
    axes.set_xticks([1 / (1 - mark / 100) for mark in marks], [f"{mark:g} %" for mark in marks])
    axes.xaxis.set_minor_locator(NullLocator())
    set_logarithmic(axes, "y")
    axes.set_xlabel("of all replies")
    figure.legend(loc="outside lower center", ncols=3)
    said = ", ".join(f"{each.contender} {number(each.distribution[99.9])} ms" for each in measured)
    says = f"Distribution of the latencies of saves with 64 connections; 99.9 % within: {said}."
    yield Chart(
        "distribution",
        "throughput",
        "How long it took until this share had its reply",
        says,
        figure,
    )


# --- Bars. ---


def bars_of_contenders(kept: Kept) -> Iterator[Chart]:
    """Draw a bar for each contender, load by load."""
    for name, section, point, title in (
        ("bars-save", "throughput", SAVE, "Durable saves a second, 64 connections"),
        ("bars-count", "million", COUNT, "Counts a second at many users, 64 connections"),
        ("bars-once", "once", Point("save", *ANEW), "Saves a second, a connection each"),
    ):
        measured = [each for each in kept.of(section) if each.point == point]
        if measured:
            labels = [each.contender for each in measured]
            figures = [each.throughput.median for each in measured]
            colours = [look_of(each.contender).colour for each in measured]
            figure = bar_chart(title, labels, figures, colours)
            says = f"{title}. {_said(measured, _throughput)}"
            yield Chart(name, section, "Medians on a logarithmic scale", says, figure)
