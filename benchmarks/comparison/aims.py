"""What the service must reach, as the project has set it for itself, and whether a run reached it.

Written down once, here, as data; a figure is taken from what a run keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.client.wire import Point
from benchmarks.comparison.alone import FIRST_REPLY, IDLE_MEMORY, OVER_TLS, PER_IDLE, WITH_IDLE
from benchmarks.comparison.bench import ANEW, DEEP, EIGHT, MANY, ONE, USUAL
from benchmarks.comparison.kept import REFERENCE, Kept, Measured
from benchmarks.results.spread import Spread

KIB, MIB = 1024, 1024**2
MILLION = 1_000_000
MINUTE_S = 60
SAVE, COUNT = Point("save", *USUAL), Point("count", *USUAL)

AGAINST = (
    ("save, 1 connection", "throughput", Point("save", *ONE), (0.95, 0.6, 6)),
    ("save, 8", "throughput", Point("save", *EIGHT), (1.0, 1.1, 15)),
    ("save, 64", "throughput", SAVE, (1.0, 3, 60)),
    ("save, 256", "throughput", Point("save", *MANY), (1.0, 6, None)),
    ("save, 8 with 64 in flight", "throughput", Point("save", *DEEP), (1.0, None, None)),
    ("count, 64, of a million users", "million", COUNT, (1.0, 500, 60)),
    ("mixed, 64", "throughput", Point("mixed", *USUAL), (0.9, None, None)),
    ("mixed, 8 with 64 in flight", "throughput", Point("mixed", *DEEP), (0.8, None, None)),
    ("a connection per save, 64", "once", Point("save", *ANEW), (0.8, 5, 8)),
)
"""Loads, where they are measured, and how many requests pwserver must answer for each one that
Redis, PostgreSQL and FastAPI answer."""

RIVALS = ("redis", "postgres", "fastapi")

AS_FAST = 0.95
"""What counts as no slower: rounds of the same thing differ by as much."""


@dataclass(frozen=True)
class Aim:
    """A figure and what it must be."""

    what: str
    bound: float
    unit: str
    """Empty for a ratio."""

    find: Callable[[Kept], Spread | None]
    at_most: bool = False

    def met_by(self, figure: float) -> bool:
        """Tell whether a figure is what it must be."""
        return figure <= self.bound if self.at_most else figure >= self.bound


@dataclass(frozen=True)
class Held:
    """An aim held against what a run measured."""

    aim: Aim
    measured: Spread | None

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches it; None where it was not measured."""
        return None if self.measured is None else self.aim.met_by(self.measured.median)

    @property
    def rounds_reached(self) -> int:
        """In how many of the rounds it was reached."""
        return sum(map(self.aim.met_by, self.measured.values)) if self.measured else 0


def held(kept: Kept) -> list[Held]:
    """Hold all aims against a run."""
    return [Held(aim, aim.find(kept)) for aim in (*_against_others(), *ALONE)]


def _against_others() -> Iterator[Aim]:
    for number, rival in enumerate(RIVALS):
        for what, section, point, bounds in AGAINST:
            if (bound := bounds[number]) is not None:
                yield Aim(f"{what}: of {rival}", bound, "", _ratio(section, point, rival))


_Finder = Callable[[Kept], Spread | None]


def _ratio(section: str, point: Point, rival: str) -> _Finder:
    users = MILLION if section == "million" else 0
    return lambda kept: kept.ratio(section, point, rival, users)


def _grown(point: Point, users: int, before: int) -> _Finder:
    this, that = (REFERENCE, users), (REFERENCE, before)
    return lambda kept: kept.compared("growth", point, this, that)


def _in_book(load: str, basic: Point, contender: str = REFERENCE) -> _Finder:
    """Find how many requests of a load there were for each one of the basic contract."""

    def find(kept: Kept) -> Spread | None:
        this = kept.find("book", contender, Point(load, *USUAL))
        that = kept.find("book", REFERENCE, basic)
        return this.against(that) if this and that else None

    return find


def _beside_idle(point: Point) -> _Finder:
    this, that = (WITH_IDLE, None), (REFERENCE, None)
    return lambda kept: kept.compared("idle", point, this, that)


def _figure(section: str, name: str, of_unit: float = 1) -> _Finder:
    def find(kept: Kept) -> Spread | None:
        found = kept.figure(section, name)
        return found and found.over(of_unit)

    return find


def _steady(figure: Callable[[Measured], Spread]) -> _Finder:
    """Find a figure of the saves without a pause, unless they took less than a minute."""

    def find(kept: Kept) -> Spread | None:
        found = kept.find("steady", REFERENCE, SAVE)
        return figure(found) if found and found.seconds >= MINUTE_S else None

    return find


STEADY_P99 = _steady(lambda found: found.percentile_ms(99.0))
STEADY_WORST = _steady(lambda found: Spread((found.worst_ms,)))

ALONE = (
    Aim("save over TLS, 64: of plain ones", 0.75, "", _in_book("save", SAVE, OVER_TLS)),
    Aim("save under a known name, 64: of plain ones", 0.6, "", _in_book("named", SAVE)),
    Aim("get, 64: of counts", 0.6, "", _in_book("get", COUNT)),
    Aim("verify, 64: of counts", 0.55, "", _in_book("verify", COUNT)),
    Aim("p99 of a save, 64, in a steady minute", 4, "ms", STEADY_P99, at_most=True),
    Aim("the worst reply of that minute", 50, "ms", STEADY_WORST, at_most=True),
    Aim("saves at 10 million users: of those at none", AS_FAST, "", _grown(SAVE, 10 * MILLION, 0)),
    Aim("counts at a million users: of those at ten", AS_FAST, "", _grown(COUNT, MILLION, 10)),
    Aim(
        "memory of the idle service, 2 workers",
        80,
        "MiB",
        _figure("start", IDLE_MEMORY, MIB),
        at_most=True,
    ),
    Aim("memory of an idle connection", 5, "KiB", _figure("idle", PER_IDLE, KIB), at_most=True),
    Aim("saves beside 10,000 idle connections", AS_FAST, "", _beside_idle(SAVE)),
    Aim("counts beside 10,000 idle connections", AS_FAST, "", _beside_idle(COUNT)),
    Aim("start to first reply", 0.5, "s", _figure("start", FIRST_REPLY), at_most=True),
)
