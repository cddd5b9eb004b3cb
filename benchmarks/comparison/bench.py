"""What every section of the comparison uses: clients, a folder, a pace, and what is kept.

A section starts its servers, measures loads on them in turn, and keeps the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.client.clients import Clients
from benchmarks.client.wire import Point, Size
from benchmarks.comparison.kept import REFERENCE, Figure, Kept, Measured
from benchmarks.results.campaign import Plan, Result, results_of, run
from benchmarks.results.progress import messages, progress
from benchmarks.results.subjects import Subject
from benchmarks.servers.servers import Target

SIZES: tuple[Size, ...] = (
    (1, 1, False),
    (8, 1, False),
    (64, 1, False),
    (256, 1, False),
    (1024, 1, False),
    (8, 64, False),
)
"""Connections, requests in flight on each, and whether each request has a connection of its own."""

ONE, EIGHT, USUAL, MANY, _, DEEP = SIZES
ANEW: Size = (64, 1, True)


@dataclass(frozen=True)
class Pace:
    """How much is measured. The figures that are held against aims need the default."""

    rounds: int = 5
    seconds: float = 1.5
    warmup_s: float = 0.3
    sizes: Sequence[Size] = SIZES
    many_users: int = 1_000_000
    growth: Sequence[int] = (0, 10, 1_000_000, 10_000_000)
    idle_connections: int = 10_000
    steady_s: float = 60.0
    starts: int = 7


QUICK = Pace(
    rounds=2,
    seconds=0.4,
    warmup_s=0.1,
    sizes=(ONE, USUAL, DEEP),
    many_users=100_000,
    growth=(0, 10, 1_000_000),
    steady_s=10.0,
    starts=3,
)
"""Everything once over, to see that it works."""


@dataclass
class Bench:
    """A run that is under way."""

    clients: Clients
    folder: Path
    pace: Pace
    kept: Kept

    def home(self) -> Path:
        """Return a new folder, for the files of one server."""
        return Path(mkdtemp(dir=self.folder))

    def subject(
        self, stack: ExitStack, target: Target, users: int = 0, loads: Sequence[str] = ()
    ) -> Subject:
        """Say that a server runs, and fill it up to so many users; `stack` stops it.

        The users have names if one of the loads needs them.
        """
        stack.enter_context(target)
        messages.print(f"  {target.banner}" if target.name == REFERENCE else f"  {target.name}")
        return Subject.prepare(target, users, loads, self.clients)

    def contest(
        self, section: str, wanted: Sequence[tuple[Subject, Sequence[Point]]], seconds: float = 0.0
    ) -> None:
        """Measure points on subjects in turn and keep them: in rounds, or once for `seconds`."""
        results = results_of(wanted)
        rounds = 1 if seconds else self.pace.rounds
        with progress(len(results) * rounds) as now_at:
            self.measure(results, rounds, seconds or self.pace.seconds, now_at)
        self.keep_loads(section, results, seconds or self.pace.seconds)

    def measure(
        self, results: list[Result], rounds: int, seconds: float, now_at: Callable[[str], None]
    ) -> None:
        """Measure so many rounds more."""
        plan = Plan(seconds, self.pace.warmup_s, rounds, usage=True)
        run(plan, results, self.clients, now_at)

    def keep_loads(self, section: str, results: Iterable[Result], seconds: float) -> None:
        """Keep what was measured, for so long in each round."""
        self.kept.measured += [Measured.of(section, each, seconds) for each in results]

    def keep(
        self, section: str, name: str, unit: str, values: list[float], contender: str = REFERENCE
    ) -> None:
        """Keep a single figure."""
        self.kept.figures.append(Figure(section, contender, name, unit, values))
