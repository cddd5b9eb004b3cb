"""How long a backup takes, and how much it slows saves: measured alone and beside one, in turn.

    python -m benchmarks.backup

Starts a service of its own with a million users in it. First it makes a backup while nobody saves.
Then each round measures saves alone, and beside `pwserver backup`, which copies the book and
verifies the copy; which goes first changes from round to round. Beside a backup, saves are measured
again and again until it ends; a measurement in which it ended does not count. The run fails, with
exit code 1 and a sentence, if a backup fails, and if an acknowledged save is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from rich.progress import track

from benchmarks.client.clients import Clients
from benchmarks.client.wire import BenchmarkFailed, Point
from benchmarks.results.campaign import Round
from benchmarks.results.options import add_directory, add_pace, described, positive, sizes
from benchmarks.results.progress import failures_said, messages
from benchmarks.results.report import SIZE, size_of
from benchmarks.results.sheets import Sheet
from benchmarks.results.spread import Spread
from benchmarks.results.subjects import Subject
from benchmarks.results.terminal import print_sheet
from benchmarks.servers.service import Service

CLIENTS = 2
WARMUP_S = 0.2
FIGURES = (
    *("saves/s\nalone", "saves/s\nbeside", "ratio", "lowest", "highest"),
    *("p99 alone,\nms", "p99 beside,\nms", "backup,\ns", "longest,\ns"),
)


@dataclass
class Measured:
    """What was measured at one size; of each round, the saves a second and how long it took."""

    point: Point
    alone: list[Round] = field(default_factory=list)
    beside: list[list[Round]] = field(default_factory=list)
    backup_s: list[float] = field(default_factory=list)


class Backups:
    """The backups of a service; the newest is kept."""

    def __init__(self, service: Service, users: int) -> None:
        self._service = service
        self._users = users
        self._file = service.database.with_name("backup.db")

    def begin(self) -> tuple[subprocess.Popen[str], float]:
        """Start a backup; return its process and when that was."""
        return self._service.begin("backup", str(self._file), "--json"), time.monotonic()

    def took_s(self, process: subprocess.Popen[str], began_s: float) -> float:
        """Wait for the end of a backup; return how long it took, its start included."""
        printed, said = process.communicate()
        took_s = time.monotonic() - began_s
        if process.returncode:
            raise BenchmarkFailed(f"the backup failed: {said.strip()}")
        found = json.loads(printed)["users"]
        if found < self._users:
            raise BenchmarkFailed(f"the backup has {found} users of {self._users}")
        return took_s


def run(options: argparse.Namespace) -> tuple[float, list[Measured]]:
    """Start a service, and measure it in all rounds."""
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="pwserver-backup-", dir=options.directory)
        home = Path(stack.enter_context(folder)).resolve()
        clients = stack.enter_context(Clients(CLIENTS))
        service = stack.enter_context(Service("pwserver", home))
        messages.print(f"{service.banner}; saving {options.users:,} users first")
        loads = ["save", "get"] if options.named else ["save"]
        subject = Subject.prepare(service, options.users, loads, clients)
        backups = Backups(service, options.users)
        quiet_s = backups.took_s(*backups.begin())
        found = [Measured(Point("save", *size)) for size in options.points]

        def window(point: Point) -> Round:
            times_s = WARMUP_S, options.seconds
            outcome = clients.measure(subject.ways.of("save"), point, 0, times_s)
            subject.add(outcome)
            return Round.of(outcome, options.seconds)

        def alone(measured: Measured) -> None:
            measured.alone.append(window(measured.point))

        def beside(measured: Measured) -> None:
            process, began_s = backups.begin()
            windows = []
            try:
                while process.poll() is None:
                    windows.append(window(measured.point))
            finally:
                if process.poll() is None:
                    process.kill()
            measured.backup_s.append(backups.took_s(process, began_s))
            if len(windows) < 2:
                raise BenchmarkFailed("the backup was over too early; more --users?")
            measured.beside.append(windows[:-1])

        steps: list[Callable[[Measured], None]] = [alone, beside]
        for _ in track(range(options.rounds), "rounds", console=messages, transient=True):
            for measured in found:
                for step in steps:
                    step(measured)
            steps.reverse()
        subject.check_users()
    return quiet_s, found


def show(quiet_s: float, users: int, found: list[Measured]) -> None:
    """Print a row for each size."""
    rows: list[list[str]] = []
    for each in found:
        alone = [window.throughput for window in each.alone]
        beside = [mean(window.throughput for window in windows) for windows in each.beside]
        ratio = Spread(tuple(b / a for a, b in zip(alone, beside, strict=True)))
        p99 = [median(window.percentiles_ms[99.0] for window in windows) for windows in each.beside]
        rows.append(
            [
                *size_of(each.point),
                *(f"{median(figure):,.0f}" for figure in (alone, beside)),
                *(f"{figure:.2f}" for figure in ratio.shown),
                f"{median(window.percentiles_ms[99.0] for window in each.alone):.2f}",
                f"{median(p99):.2f}",
                f"{median(each.backup_s):.1f}",
                f"{max(each.backup_s):.1f}",
            ]
        )
    title = (
        f"Saves alone and beside a backup of {users:,} users: medians of the rounds. A backup "
        f"while nobody saved took {quiet_s:.1f} s."
    )
    print_sheet(Sheet(title, [*SIZE, *FIGURES], rows, words=0))


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = described(__doc__)
    add = parser.add_argument
    add(
        "--points",
        type=sizes,
        default="1,8,64",
        metavar="N[xDEPTH],...",
        help="connections, with DEPTH requests in flight on each (default: %(default)s)",
    )
    add("--users", type=positive, default=1_000_000, help="saved first (default: %(default)s)")
    add("--named", action="store_true", help="the users have names, and with them an index")
    add_pace(parser, seconds=1.5, rounds=3)
    add_directory(parser)
    return parser


def main() -> None:
    """Measure, or say why not."""
    options = command_line().parse_args()
    with failures_said():
        quiet_s, found = run(options)
        show(quiet_s, options.users, found)


if __name__ == "__main__":
    main()
