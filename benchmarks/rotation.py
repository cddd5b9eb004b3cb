"""How much a key rotation slows saves: measured alone and beside one, in turn.

    python benchmarks/rotation.py

Starts a service of its own with users in it, and puts saves on it. Each round measures them alone
and beside `pwserver key rotate`; which goes first changes from round to round. After a measurement
the rotation is killed; the next one has a new key, so that there is always enough to seal again.
The run fails, with exit code 1 and a sentence, if a rotation ends while it is measured, and if an
acknowledged save is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from rich.progress import track

from benchmarks.client.clients import Clients
from benchmarks.client.wire import BenchmarkFailed, Point
from benchmarks.results.campaign import Result, Round
from benchmarks.results.options import add_directory, add_pace, described, positive, sizes
from benchmarks.results.progress import failures_said, messages
from benchmarks.results.report import SIZE, size_of
from benchmarks.results.sheets import Sheet
from benchmarks.results.spread import Spread
from benchmarks.results.subjects import Subject
from benchmarks.results.terminal import print_sheet
from benchmarks.servers.service import Service

LOAD = "save"
CLIENTS = 2
WARMUP_S = 0.5
"""Longer than the workers take to seal with a new key."""

FIGURES = (
    *("saves/s\nalone", "saves/s\nbeside", "ratio", "lowest", "highest"),
    *("p99 alone,\nms", "p99 beside,\nms", "sealed\nanew/s"),
)
START_TIMEOUT_S = 60.0
POLL_S = 0.01


@dataclass(frozen=True)
class Measured:
    """What was measured at one size."""

    alone: Result
    beside: Result
    sealed_per_s: list[float] = field(default_factory=list)
    """Rows that the rotation has sealed again, in each round."""


class Rotation:
    """A rotation at work, and what can be seen of it in the database."""

    def __init__(self, service: Service, key: int) -> None:
        self._key = key
        self._database = sqlite3.connect(f"file:{service.database}?mode=ro", uri=True)
        self._since_ms = time.time_ns() // 1_000_000
        self._at_work_s = 0.0
        self._process = service.begin("key", "rotate")

    def wait_until_at_work(self) -> None:
        """Wait until the first row is sealed again; it is the first to be so."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self._number("SELECT key_id FROM user ORDER BY id LIMIT 1") != self._key:
            self.check()
            if time.monotonic() > deadline_s:
                raise BenchmarkFailed("the rotation did not begin in time")
            time.sleep(POLL_S)
        self._at_work_s = time.monotonic()

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            said = self._process.communicate()[1].strip()
            raise BenchmarkFailed(f"the rotation was over too early; more --users? It said: {said}")

    def sealed_per_s(self) -> float:
        """Return how many rows a second it has sealed again since it was at work."""
        took_s = time.monotonic() - self._at_work_s
        select = "SELECT COUNT(*) FROM user WHERE key_id = ? AND saved_at_ms < ?"
        return self._number(select, self._key, self._since_ms) / took_s

    def close(self) -> None:
        """End it in the middle of what it does."""
        self._process.kill()
        self._process.communicate()
        self._database.close()

    def _number(self, select: str, *parameters: int) -> int:
        return int(self._database.execute(select, parameters).fetchone()[0])


def run(options: argparse.Namespace) -> list[Measured]:
    """Start a service, and measure it in all rounds."""
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="pwserver-rotation-", dir=options.directory)
        home = Path(stack.enter_context(folder)).resolve()
        clients = stack.enter_context(Clients(CLIENTS))
        service = stack.enter_context(Service("pwserver", home))
        messages.print(f"{service.banner}; saving {options.users:,} users first")
        subject = Subject.prepare(service, options.users, [LOAD], clients)
        points = [Point(LOAD, *size) for size in options.points]
        found = [Measured(Result(subject, each), Result(subject, each)) for each in points]
        keys = itertools.count(2)  # the service has made the first

        def measure(result: Result) -> None:
            times_s = WARMUP_S, options.seconds
            outcome = clients.measure(subject.ways.of(LOAD), result.point, 0, times_s)
            subject.add(outcome)
            result.rounds.append(Round.of(outcome, options.seconds))

        def measure_beside(measured: Measured) -> None:
            service.administer("key", "add")
            with closing(Rotation(service, next(keys))) as rotation:
                rotation.wait_until_at_work()
                measure(measured.beside)
                rotation.check()
                measured.sealed_per_s.append(rotation.sealed_per_s())

        steps: list[Callable[[Measured], None]] = [
            lambda measured: measure(measured.alone),
            measure_beside,
        ]
        for _ in track(range(options.rounds), "rounds", console=messages, transient=True):
            for measured in found:
                for step in steps:
                    step(measured)
            steps.reverse()
        subject.check_users()
    return found


def show(found: list[Measured]) -> None:
    """Print a row for each size."""
    rows: list[list[str]] = []
    for each in found:
        alone, beside = each.alone, each.beside
        ratio = beside.against(alone) or Spread((0.0,))
        rows.append(
            [
                *size_of(alone.point),
                *(f"{result.throughput.median:,.0f}" for result in (alone, beside)),
                *(f"{figure:.2f}" for figure in ratio.shown),
                *(f"{result.percentile_ms(99.0).median:.2f}" for result in (alone, beside)),
                f"{median(each.sealed_per_s):,.0f}",
            ]
        )
    title = "Saves alone and beside a key rotation: medians of the rounds"
    print_sheet(Sheet(title, [*SIZE, *FIGURES], rows, words=0))


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = described(__doc__)
    add = parser.add_argument
    add(
        "--points",
        type=sizes,
        default="1,64",
        metavar="N[xDEPTH],...",
        help="connections, with DEPTH requests in flight on each (default: %(default)s)",
    )
    add("--users", type=positive, default=100_000, help="saved first (default: %(default)s)")
    add_pace(parser, seconds=2.0, rounds=5)
    add_directory(parser)
    return parser


def main() -> None:
    """Measure, or say why not."""
    options = command_line().parse_args()
    with failures_said():
        show(run(options))


if __name__ == "__main__":
    main()
