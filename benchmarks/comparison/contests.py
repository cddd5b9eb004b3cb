"""The sections in which contenders meet: at all sizes, connecting each time, with many users.

Each starts its own servers, all of them at once, because they are measured in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.client.wire import BASIC_LOADS, Point, points
from benchmarks.comparison.bench import ANEW, DEEP, EIGHT, MANY, ONE, USUAL, Bench
from benchmarks.comparison.kept import REFERENCE
from benchmarks.results.subjects import Subject
from benchmarks.servers import contenders
from benchmarks.servers.servers import Baseline, Target
from benchmarks.servers.service import Service

BASELINE = "baseline"
SLOW = ("fastapi", "gunicorn", BASELINE)
"""Contenders whose requests a second hardly change with the connections: of these fewer sizes are
measured, or they would take half of the run."""

SLOW_POINTS = (*points(["save", "count"], [ONE, EIGHT, USUAL, MANY]), Point("mixed", *USUAL))
BASELINE_PROCESSES = USUAL[0] + 1
"""A process for each connection, and one for questions beside; more only wait for each other."""

WORKERS = (1, 2, 4)

ORDER = (REFERENCE, "redis", "postgres", *SLOW)
"""In which contenders are started, and shown."""


def throughput(bench: Bench) -> None:
    """Measure all loads at all sizes."""
    with ExitStack() as stack:
        everything = points(BASIC_LOADS, bench.pace.sizes)
        slow = [point for point in SLOW_POINTS if point in everything]
        bench.contest(
            "throughput",
            [
                (each, slow if each.target.name in SLOW else everything)
                for each in _all(bench, stack)
            ],
        )


def once(bench: Bench) -> None:
    """Measure requests that have a connection each."""
    _at(bench, "once", points(["save", "count"], [ANEW]), users=0)


def million(bench: Bench) -> None:
    """Measure counts of many users."""
    _at(bench, "million", [Point("count", *USUAL)], bench.pace.many_users)


def workers(bench: Bench) -> None:
    """Measure pwserver with several numbers of workers."""
    with ExitStack() as stack:
        wanted = [*points(["save"], [EIGHT, USUAL, DEEP]), Point("count", *USUAL)]
        subjects = []
        for number in WORKERS:
            name = f"{REFERENCE}, {number} worker{'s' if number > 1 else ''}"
            service = Service(name, bench.home(), ["--workers", str(number)])
            subjects.append(bench.subject(stack, service))
        bench.contest("workers", [(each, wanted) for each in subjects])


def _at(bench: Bench, section: str, wanted: Sequence[Point], users: int) -> None:
    with ExitStack() as stack:
        bench.contest(section, [(each, wanted) for each in _all(bench, stack, users)])


def _all(bench: Bench, stack: ExitStack, users: int = 0) -> list[Subject]:
    """Start all contenders there are, each with so many users."""
    starters: dict[str, Callable[[Path, int], Target]] = {
        REFERENCE: lambda home, users: Service(REFERENCE, home),  # the load generator fills it
        **contenders.STARTERS,
        BASELINE: lambda home, users: Baseline(home, BASELINE_PROCESSES, users),
    }
    return [
        bench.subject(stack, starters[name](bench.home(), users), users)
        for name in ORDER
        if name not in bench.kept.missing
    ]
