"""What the distance between the service and its PostgreSQL server costs, measured in turn.

    python benchmarks/distance.py

Starts two services, each on a PostgreSQL server of its own. Both reach it through a program that
lets everything arrive later: for one by no time, for the other by `--ms` there and back, so the
program's own cost is in both. Each round measures saves, a get alone, and a get on a connection of
its own beside the saves; which service goes first changes from round to round. A get should take
one round trip whatever is committed meanwhile. The run fails, with exit code 1 and a sentence, if
an acknowledged save is not counted, or a reply is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from rich.progress import track

from benchmarks.client.clients import Clients
from benchmarks.client.generator import Outcome
from benchmarks.client.wire import Point
from benchmarks.results.campaign import Round
from benchmarks.results.options import (
    PREPARED_USERS,
    above_zero,
    add_directory,
    add_pace,
    described,
    positive,
)
from benchmarks.results.progress import failures_said, messages
from benchmarks.results.sheets import Sheet, number
from benchmarks.results.spread import Spread
from benchmarks.results.subjects import Subject
from benchmarks.results.terminal import print_sheet
from benchmarks.servers.service import ServiceOnPostgres

CLIENTS = 2
WARMUP_S = 0.5
GET = Point("get", 1, 1)

RATE = "saves/s"
SAVE_MS = "a save, ms"
GET_MS = "a get alone, ms"
BESIDE_MS = "a get beside the saves, ms"
WORST_MS = "99 of 100 of these, ms"


class Placed:
    """A service at some distance from its database, and what was measured of it."""

    def __init__(self, subject: Subject, ms: float) -> None:
        self.subject = subject
        self.ms = ms
        self.figures: dict[str, list[float]] = {}

    def measure(self, clients: tuple[Clients, Clients], save: Point, seconds: float) -> None:
        """Measure everything once more."""
        savers, getter = clients
        times_s = WARMUP_S, seconds

        def ask(some: Clients, point: Point) -> Round:
            way = self.subject.ways.of(point.load)
            outcome: Outcome = some.measure(way, point, self.subject.users, times_s)
            self.subject.add(outcome)
            return Round.of(outcome, seconds)

        saves = ask(savers, save)
        alone = ask(getter, GET)
        with ThreadPoolExecutor() as both:
            beside = both.submit(ask, getter, GET)
            ask(savers, save)
        self._note(RATE, saves.throughput)
        self._note(SAVE_MS, saves.percentiles_ms[50.0])
        self._note(GET_MS, alone.percentiles_ms[50.0])
        self._note(BESIDE_MS, beside.result().percentiles_ms[50.0])
        self._note(WORST_MS, beside.result().percentiles_ms[99.0])

    def _note(self, what: str, figure: float) -> None:
        self.figures.setdefault(what, []).append(figure)


def run(options: argparse.Namespace) -> list[Placed]:
    """Start everything, and measure it in all rounds."""
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="pwserver-distance-", dir=options.directory)
        home = Path(stack.enter_context(folder)).resolve()
        clients = stack.enter_context(Clients(CLIENTS)), stack.enter_context(Clients(1))
        serve = ["--workers", str(options.workers)] if options.workers else []
        placed = []
        for ms in (0.0, options.ms):
            its = home / f"at-{ms:g}-ms"
            its.mkdir()
            service = stack.enter_context(ServiceOnPostgres("pwserver", its, serve, away_ms=ms))
            messages.print(f"{service.banner}, {ms:g} ms away")
            prepared = Subject.prepare(service, PREPARED_USERS, ["save", "get"], clients[0])
            placed.append(Placed(prepared, ms))
        save = Point("save", options.connections, 1)
        order = list(placed)
        for _ in track(range(options.rounds), "rounds", console=messages, transient=True):
            for each in order:
                each.measure(clients, save, options.seconds)
            order.reverse()
        for each in placed:
            each.subject.check_users()
        return placed


def show(placed: list[Placed]) -> None:
    """Print a row for each figure at each distance, and what share of the saves is left."""
    near, far = placed
    pairs = zip(far.figures[RATE], near.figures[RATE], strict=True)
    shares = Spread(tuple(there / here for there, here in pairs))
    rows = [
        [what, f"{each.ms:g}", *map(number, Spread(tuple(each.figures[what])).shown)]
        for what in near.figures
        for each in placed
    ]
    rows.append(["share of the saves that is left", f"{far.ms:g}", *map(number, shares.shown)])
    headings = ["what", "away,\nms", "median", "lowest", "highest"]
    print_sheet(Sheet("Medians of the rounds", headings, rows))


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = described(__doc__)
    add = parser.add_argument
    add("--ms", type=above_zero, default=5.0, help="there and back (default: %(default)s)")
    add("--connections", type=positive, default=256, help="that save (default: %(default)s)")
    add("--workers", type=positive, help="workers of the service (default: its own default)")
    add_pace(parser, seconds=2.0, rounds=3)
    add_directory(parser)
    return parser


def main() -> None:
    """Measure, or say why not."""
    options = command_line().parse_args()
    with failures_said():
        show(run(options))


if __name__ == "__main__":
    main()
