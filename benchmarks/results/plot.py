"""Draws throughput and latency against connections, a column for each load.

Imported only when a plot is asked for, because matplotlib takes a second to load and is no part of
measuring. Works on results alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results.campaign import Result
from benchmarks.results.report import label
from benchmarks.results.subjects import Subject

INCHES_A_LOAD = 5.0
INCHES_HIGH = 8.0


@dataclass(frozen=True)
class Series:
    """What one line shows: a server with one pipelining depth, at growing numbers of connections.

    A colour is a server; a filled marker is one request in flight, a hollow one several, or a
    connection for each request.
    """

    name: str
    colour: str
    hollow: bool
    results: list[Result]

    @property
    def connections(self) -> list[int]:
        """Return the numbers of connections measured."""
        return [each.point.connections for each in self.results]

    def draw_throughput(self, axes: Axes) -> None:
        """Draw the medians, with the range of the rounds as a bar."""
        medians = [each.throughput for each in self.results]
        below = [each.throughput - each.throughput_range[0] for each in self.results]
        above = [each.throughput_range[1] - each.throughput for each in self.results]
        axes.errorbar(
            self.connections,
            medians,
            [below, above],
            color=self.colour,
            label=self.name,
            marker="o",
            markerfacecolor="none" if self.hollow else self.colour,
            capsize=3,
        )

    def draw_latency(self, axes: Axes) -> None:
        """Draw the median latency, and the latency that one request in a hundred exceeds."""
        for percent, line, marker in ((50.0, "-", "o"), (99.0, "--", "^")):
            axes.plot(
                self.connections,
                [each.percentile_ms(percent) for each in self.results],
                color=self.colour,
                linestyle=line,
                marker=marker,
                markerfacecolor="none" if self.hollow else self.colour,
            )


def draw(path: Path, results: list[Result], subjects: list[Subject]) -> None:
    """Write the picture to `path`, in the format that its ending names."""
    loads = list(dict.fromkeys(result.point.load for result in results))
    figure = Figure(figsize=(INCHES_A_LOAD * len(loads), INCHES_HIGH), layout="constrained")
    axes = figure.subplots(2, len(loads), squeeze=False, sharex=True, sharey="row")
    for column, load in enumerate(loads):
        throughput, latency = axes[0][column], axes[1][column]
        throughput.set_title(load)
        latency.set_xlabel("connections")
        for each in _series(load, results, subjects):
            each.draw_throughput(throughput)
            each.draw_latency(latency)
    _scale(axes[0][0], "requests a second, range of the rounds")
    _scale(axes[1][0], "latency in ms: p50 solid (o), p99 dashed (^)")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(subjects))
    figure.savefig(path)


def _series(load: str, results: list[Result], subjects: list[Subject]) -> list[Series]:
    here = [each for each in results if each.point.load == load]
    series = []
    for depth, once in dict.fromkeys((each.point.depth, each.point.once) for each in here):
        for number, subject in enumerate(subjects):
            name = label(subject, subjects) + _kind(depth, once)
            chosen = [r for r in here if r.subject is subject and r.point.size[1:] == (depth, once)]
            chosen.sort(key=lambda each: each.point.connections)
            if chosen:  # an older server does not know every load
                series.append(Series(name, f"C{number}", depth > 1 or once, chosen))
    return series


def _kind(depth: int, once: bool) -> str:
    if once:
        return ", a connection per request"
    return f", {depth} in flight each" if depth > 1 else ""


def _scale(axes: Axes, what: str) -> None:
    axes.set_ylabel(what)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
