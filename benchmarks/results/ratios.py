"""Ratios between what one run has measured in turn: loads, numbers of users, servers.

A ratio is taken round by round, between two measurements that were made one shortly after the
other, and its figure is the median of the rounds: so what the machine did meanwhile is in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.client.wire import WAYS, Point
from benchmarks.results.campaign import Result
from benchmarks.results.spread import Spread

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
    def throughput(self) -> Spread:
        """Return the ratios of the rounds, or 0 where nothing was answered."""
        return self.this.against(self.that) or Spread((0.0,))

    def latency(self, percent: float) -> float:
        """Return how many times as long a percentile of the latencies is."""
        this, that = (each.percentile_ms(percent).median for each in (self.this, self.that))
        return this / that


_Place = tuple[str, int, Point]
"""A server, the users it had at first, and what was measured on it."""


def all_ratios(results: list[Result]) -> list[Ratio]:
    """Return every ratio that the run allows: those between loads, users, and servers."""
    found = {(each.subject.target.name, each.subject.users, each.point): each for each in results}
    return [*_between_loads(found), *_between_users(found), *_between_servers(found)]


def _between_loads(found: dict[_Place, Result]) -> Iterator[Ratio]:
    for load, other in LOADS_COMPARED:
        for (name, users, point), this in found.items():
            that = found.get((name, users, Point(other, *point.size)))
            if point.load == load and that:
                yield Ratio(f"{load} / {other}", this, that)


def _between_users(found: dict[_Place, Result]) -> Iterator[Ratio]:
    """Compare a server with itself, with more users and with the fewest."""
    fewest = min(users for _, users, _ in found)
    for (name, users, point), this in found.items():
        that = found.get((name, fewest, point))
        if that and users != fewest:
            yield Ratio(f"{users:,} / {fewest:,} users", this, that)


def _between_servers(found: dict[_Place, Result]) -> Iterator[Ratio]:
    """Compare the server that the run is about, which comes first, with the others.

    Where another is only another way into the same one, it is the other that is compared with it.
    """
    first, *others = dict.fromkeys(name for name, _, _ in found)
    for other in others:
        for (name, users, point), this in found.items():
            that = found.get((other, users, point))
            if name == first and that:
                if other in WAYS:
                    yield Ratio(f"{other} / {first}", that, this)
                else:
                    yield Ratio(f"{first} / {other}", this, that)
