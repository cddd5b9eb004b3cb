"""Draws throughput and latency against connections, a column for each load.

It is imported only for a plot, because matplotlib takes a second to load. A colour is a server. A
filled marker is one request in flight, a hollow one several, or a connection for each request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results.campaign import Result
from benchmarks.results.report import label
from benchmarks.results.subjects import Subject

INCHES_A_LOAD = 5.0
INCHES_HIGH = 8.0


def draw(path: Path, results: list[Result], subjects: list[Subject]) -> None:
    """Write the picture to `path`, in the format that its ending names."""
    loads = list(dict.fromkeys(result.point.load for result in results))
    figure = Figure(figsize=(INCHES_A_LOAD * len(loads), INCHES_HIGH), layout="constrained")
    axes = figure.subplots(2, len(loads), squeeze=False, sharex=True, sharey="row")
    for column, load in zip(axes.T, loads, strict=True):
        column[0].set_title(load)
        column[1].set_xlabel("connections")
        _draw_load(column, [each for each in results if each.point.load == load], subjects)
    _scale(axes[0][0], "requests a second, range of the rounds")
    _scale(axes[1][0], "latency in ms: p50 solid (o), p99 dashed (^)")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(subjects))
    figure.savefig(path)


def _draw_load(column: Sequence[Axes], results: list[Result], subjects: list[Subject]) -> None:
    """Draw a line for each server and kind of connection, at growing numbers of connections."""
    for depth, once in dict.fromkeys(each.point.size[1:] for each in results):
        for number, subject in enumerate(subjects):
            line = [
                each
                for each in sorted(results, key=lambda each: each.point.connections)
                if each.subject is subject and each.point.size[1:] == (depth, once)
            ]
            if line:  # an older server does not know every load
                name, colour = label(subject, subjects) + _kind(depth, once), f"C{number}"
                _draw_line(column, line, name, colour, "none" if depth > 1 or once else colour)


def _draw_line(
    column: Sequence[Axes], line: list[Result], name: str, colour: str, face: str
) -> None:
    """Draw the medians with the range of the rounds, and below them two latencies."""
    connections = [each.point.connections for each in line]
    medians, lowest, highest = zip(*(each.throughput.shown for each in line), strict=True)
    column[0].errorbar(
        connections,
        medians,
        [
            [of - low for of, low in zip(medians, lowest, strict=True)],
            [high - of for of, high in zip(medians, highest, strict=True)],
        ],
        color=colour,
        label=name,
        marker="o",
        markerfacecolor=face,
        capsize=3,
    )
    for percent, style in ((50.0, "-o"), (99.0, "--^")):
        latencies = [each.percentile_ms(percent).median for each in line]
        column[1].plot(connections, latencies, style, color=colour, markerfacecolor=face)


def _kind(depth: int, once: bool) -> str:
    if once:
        return ", a connection per request"
    return f", {depth} in flight each" if depth > 1 else ""


def _scale(axes: Axes, what: str) -> None:
    axes.set_ylabel(what)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
