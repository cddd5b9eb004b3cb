"""A table as the terminal, the page and RESULTS.md all show it, and how its figures are written."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.client.wire import Size
from benchmarks.results.spread import Spread

NOTHING = "-"
"""What stands where nothing was measured."""


@dataclass(frozen=True)
class Sheet:
    """A table: words in its first columns, figures in the others."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    words: int = 1
    """Columns of words."""


@dataclass(frozen=True)
class Chapter:
    """What is shown of a section: a sentence or two, and its tables."""

    section: str
    title: str
    says: str
    sheets: list[Sheet]


def size(point: Size) -> str:
    """Return how many connections there are, and how many requests are in flight on each."""
    connections, depth, once = point
    return f"{connections:,}{' again' if once else f'x{depth}' if depth > 1 else ''}"


def number(figure: float) -> str:
    """Return a figure with as many digits as are worth reading: three, as a rule."""
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    digits = 1 if abs(figure) >= 10 else 2 if abs(figure) >= 0.1 else 3
    return f"{figure:.{digits}f}"


def rate(spread: Spread | None) -> str:
    """Return the median alone."""
    return NOTHING if spread is None else number(spread.median)


def range_of(spread: Spread | None) -> str:
    """Return the lowest and the highest round, where there are several."""
    if spread is None or len(spread.values) < 2:
        return NOTHING
    return f"{number(spread.lowest)} to {number(spread.highest)}"


def ratio(spread: Spread | None) -> str:
    """Return the median, and in parentheses the lowest and the highest round."""
    if spread is None:
        return NOTHING
    if len(spread.values) < 2:
        return number(spread.median)
    return f"{number(spread.median)} ({range_of(spread)})"
