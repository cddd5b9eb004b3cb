"""Ratios between what one run has measured in turn: loads, numbers of users, servers.

A ratio is taken round by round, between two measurements that were made one shortly after the
other, and its figure is the median of the rounds: what the machine does meanwhile is then in both.
Works on results alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.client.wire import WAYS, Point
from benchmarks.results.campaign import Result, Round

LOADS_COMPARED = (
    ("named", "save"),
    ("new", "save"),
    ("get", "count"),
    ("verify", "count"),
)


@dataclass(frozen=True)
class Ratio:
    """How many requests a second `this` answered for each one that `that` did."""

    kind: str
    this: Result
    that: Result

    @property
    def rounds(self) -> list[float]:
        """Return the ratios of the rounds."""
        return round_by_round(self.this.rounds, self.that.rounds)

    @property
    def median(self) -> float:
        """Return the median of the rounds, or 0 where nothing was answered."""
        return median(self.rounds or [0.0])

    @property
    def range(self) -> tuple[float, float]:
        """Return the lowest and the highest of the rounds."""
        return min(self.rounds, default=0.0), max(self.rounds, default=0.0)

    def latency(self, percent: float) -> float:
        """Return how many times as long a percentile of the latencies is."""
        return self.this.percentile_ms(percent) / self.that.percentile_ms(percent)


def round_by_round(these: Sequence[Round], those: Sequence[Round]) -> list[float]:
    """Return the ratios of requests a second, but for rounds in which nothing was answered."""
    pairs = zip(these, those, strict=True)
    return [this.throughput / that.throughput for this, that in pairs if that.throughput]


def all_ratios(results: list[Result]) -> list[Ratio]:
    """Return every ratio that the run allows: those between loads, users, and servers."""
    found = {_place(each): each for each in results}
    return [
        *_between_loads(results, found),
        *_between_users(results, found),
        *_between_servers(results, found),
    ]


_Place = tuple[str, int, Point]


def _place(result: Result) -> _Place:
    return result.subject.target.name, result.subject.users, result.point


def _between_loads(results: list[Result], found: dict[_Place, Result]) -> Iterator[Ratio]:
    for load, other in LOADS_COMPARED:
        for this in results:
            name, users, point = _place(this)
            that = found.get((name, users, Point(other, *point.size)))
            if point.load == load and that:
                yield Ratio(f"{load} / {other}", this, that)


def _between_users(results: list[Result], found: dict[_Place, Result]) -> Iterator[Ratio]:
    """Compare a server with itself, with more users and with the fewest."""
    fewest = min(each.subject.users for each in results)
    for this in results:
        name, users, point = _place(this)
        that = found.get((name, fewest, point))
        if that and users != fewest:
            yield Ratio(f"{users:,} / {fewest:,} users", this, that)


def _between_servers(results: list[Result], found: dict[_Place, Result]) -> Iterator[Ratio]:
    """Compare the server that the run is about, which comes first, with the others.

    Where another is only another way into the same one, it is the other that is compared with it.
    """
    first, *others = dict.fromkeys(each.subject.target.name for each in results)
    for other in others:
        for this in results:
            name, users, point = _place(this)
            that = found.get((other, users, point))
            if name == first and that:
                if other in WAYS:
                    yield Ratio(f"{other} / {first}", that, this)
                else:
                    yield Ratio(f"{first} / {other}", this, that)
