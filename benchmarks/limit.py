"""The limit: what one process saves without sockets, sealing and replies.

    python benchmarks/limit.py

It does `executemany` and COMMIT with `synchronous=FULL` on pwserver's own table, with its settings
of SQLite and rows of the size that it seals, by the number of rows that share a commit; and it
measures how often the disk syncs. Nothing that commits to this table on this disk saves more.
SQLite's checkpoints are in the time; making the rows is not. The database grows from round to
round, which costs next to nothing, because rows go to the end of the table.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import apsw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from playhouse.apsw_ext import APSWDatabase

from benchmarks.results.options import add_directory, add_pace, described
from benchmarks.results.sheets import Sheet
from benchmarks.results.spread import Spread
from benchmarks.results.terminal import print_sheet
from pwserver.limits import CHECKPOINT_PAGES
from workers.book.models import Row, User, sql
from workers.storage.sqlite.database import PRAGMAS

BATCHES = (1, 8, 64, 512, 4096)
"""Rows that share a commit."""

SEALED = b"\xa5" * 61
"""As long as the passwords of the load test are when they are sealed."""

ID_STEP = 2048
"""Between the ids that a worker makes one after the other."""

PAGE = b"\xa5" * 4096
OVERWRITTEN_BYTES = 8 * 1024 * 1024
"""A file as long as a write-ahead log gets, which is overwritten round and round."""

APPENDED = "syncs of a file that grows"
"""Its new size is synced too."""

OVERWRITTEN = "syncs of a file overwritten in place"
"""It has its size, as SQLite's log has after the first checkpoint."""

_Given = TypeVar("_Given")


class Limit:
    """A database and a file in a folder, to be measured round by round; use it in a `with`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "synced"
        pragmas = PRAGMAS | {"journal_mode": "wal", "wal_autocheckpoint": CHECKPOINT_PAGES}
        self._database = APSWDatabase(str(folder / "limit.db"), pragmas=pragmas)
        self._database.connect()
        self._connection: apsw.Connection = self._database.connection()
        fields = [User.id, User.book, User.key_id, User.sealed, User.saved_at_ms]
        with self._database.bind_ctx([User]):
            self._database.create_tables([User])
            self._insert = sql(User.insert_many([(0, 0, 0, b"", 0)], fields=fields))
        self._ids = itertools.count(ID_STEP, ID_STEP)
        names = [*map(rows, BATCHES), APPENDED, OVERWRITTEN]
        self.rates: dict[str, list[float]] = {name: [] for name in names}
        """How often a second each was done, in each round."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._file.unlink(missing_ok=True)

    def measure(self, seconds: float) -> None:
        """Measure everything once more, each for so long."""
        self._sync(seconds / 2)
        for batch in BATCHES:
            prepare = functools.partial(self._new_rows, batch)
            self.rates[rows(batch)].append(batch * _rate(self._save, prepare, seconds))

    def _new_rows(self, batch: int) -> list[Row]:
        saved_at_ms = time.time_ns() // 1_000_000
        return [(next(self._ids), 0, 1, SEALED, saved_at_ms) for _ in range(batch)]

    def _save(self, rows: list[Row]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(self._insert, rows)
        self._connection.execute("COMMIT")

    def _sync(self, seconds: float) -> None:
        """Write and sync pages, for so long in each way."""
        file = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            offsets = itertools.count(0, len(PAGE))
            self.rates[APPENDED].append(_rate(_syncing(file), lambda: next(offsets), seconds))
            os.pwrite(file, bytes(OVERWRITTEN_BYTES), 0)
            os.fsync(file)
            round_and_round = itertools.cycle(range(0, OVERWRITTEN_BYTES, len(PAGE)))
            rate = _rate(_syncing(file), lambda: next(round_and_round), seconds)
            self.rates[OVERWRITTEN].append(rate)
        finally:
            os.close(file)


def rows(batch: int) -> str:
    """Return what the saves are called that share a commit."""
    return f"rows, {batch:,} a commit"


def _syncing(file: int) -> Callable[[int], None]:
    def write(offset: int) -> None:
        os.pwrite(file, PAGE, offset)
        os.fdatasync(file)

    return write


def _rate(work: Callable[[_Given], None], prepare: Callable[[], _Given], seconds: float) -> float:
    """Return how often a second `work` is done, what it is given being made off the clock."""
    spent_ns = times = 0
    while spent_ns < seconds * 1e9:
        given = prepare()
        began_ns = time.perf_counter_ns()
        work(given)
        spent_ns += time.perf_counter_ns() - began_ns
        times += 1
    return times / spent_ns * 1e9


def main() -> None:
    """Measure in rounds, and print the medians."""
    parser = described(__doc__)
    add_pace(parser, seconds=0.5, rounds=5)
    add_directory(parser)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="pwserver-limit-", dir=options.directory) as folder,
        Limit(Path(folder)) as limit,
    ):
        for _ in range(options.rounds):
            limit.measure(options.seconds)
        rows = [
            [what, *(f"{figure:,.0f}" for figure in Spread(tuple(rates)).shown)]
            for what, rates in limit.rates.items()
        ]
    headings = ["what", "a second", "lowest", "highest"]
    print_sheet(Sheet("Medians of the rounds", headings, rows))


if __name__ == "__main__":
    main()
