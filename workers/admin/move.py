"""Moves a book from one database to another, of the same kind or not, with its rows as they are.

Rows go in the order of their ids, some at a time, each time in one transaction. Whoever runs it
again after an interruption compares what is there already with the source, which may have changed
since, and goes on from the first difference. The marks on both databases change in an order in
which never both can be served:

    source     destination
    -          half           rows are copied, then all of them are read again and compared
    -          whole
    moved      whole
    moved      -              the destination is the book

Needs no key, and knows nothing of either kind of database.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from pwserver.errors import DatabaseRefused
from workers.storage.movable import (
    TABLES,
    WHOLE,
    Destination,
    Movable,
    Source,
    StoredRow,
    Table,
)

_ROWS_TOGETHER = 5000
_BYTES_TOGETHER = 4 * 1024 * 1024
"""What is held in memory and saved in one transaction, by whichever is reached first."""

Progress = Callable[[str, int, int], None]
"""Called with what is done now, how much of it, and of how much."""

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Moved:
    """What was moved."""

    rows: dict[str, int]
    """The number of rows of each table."""
    digest: str
    """SHA-256 of all rows, the same on both sides."""


class _Sum:
    """The number of rows, and SHA-256 of all of them in the order of their ids, in MessagePack."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._digest = hashlib.sha256()
        self._last: int | None = None
        self.rows = 0

    def pages(self, rows: Iterator[StoredRow]) -> Iterator[list[StoredRow]]:
        """Yield rows some at a time, and add them."""
        page: list[StoredRow] = []
        packed: list[bytes] = []
        size = 0
        for row in rows:
            if self._last is not None and row[0] <= self._last:
                raise DatabaseRefused(
                    f"{self._place} is damaged: row {row[0]} stands after row {self._last}. "
                    "`pwserver check` says what can still be read."
                )
            self._last = row[0]
            page.append(row)
            packed.append(_pack(row))
            size += len(packed[-1])
            if len(page) == _ROWS_TOGETHER or size > _BYTES_TOGETHER:
                yield self._added(page, packed)
                page, packed, size = [], [], 0
        if page:
            yield self._added(page, packed)

    def _added(self, page: list[StoredRow], packed: list[bytes]) -> list[StoredRow]:
        self._digest.update(b"".join(packed))
        self.rows += len(page)
        return page

    @property
    def digest(self) -> bytes:
        """SHA-256 of the rows so far."""
        return self._digest.digest()


class _Move:
    """One move, while both databases are open."""

    def __init__(
        self, source: Source, destination: Destination, places: tuple[str, str], told: Progress
    ) -> None:
        self._source = source
        self._destination = destination
        self._places = places
        self._told = told
        self._counts = {table: source.count(table) for table in TABLES}
        self._sums: dict[Table, _Sum] = {}
        self._done = 0

    def copy(self) -> None:
        """Make the rows of the destination those of the source."""
        for table in TABLES:
            added = self._sums[table] = _Sum(self._places[0])
            with contextlib.closing(self._source.rows(table)) as rows:
                self._copy(table, added.pages(rows))
            if added.rows != self._counts[table]:
                raise DatabaseRefused(
                    f"{self._places[0]} is damaged: it counts {self._counts[table]:,} rows of "
                    f"{table.name}, and {added.rows:,} were found. `pwserver check` says more."
                )

    def _copy(self, table: Table, pages: Iterator[list[StoredRow]]) -> None:
        last: int | None = None
        first_new: list[StoredRow] = []
        with contextlib.closing(self._destination.rows(table)) as there:
            for page in pages:
                if list(itertools.islice(there, len(page))) != page:
                    first_new = page
                    break
                last = page[-1][0]
                self._tell("Comparing", len(page))
        self._destination.cut(table, last)
        for page in itertools.chain([first_new] if first_new else [], pages):
            self._destination.put(table, page)
            self._tell("Copying", len(page))

    def verify(self) -> None:
        """Read all of the destination again; raise `DatabaseRefused` if it differs."""
        self._done = 0
        for table in TABLES:
            found, wanted = _Sum(self._places[1]), self._sums[table]
            with contextlib.closing(self._destination.rows(table)) as rows:
                for page in found.pages(rows):
                    self._tell("Verifying", len(page))
            if (found.rows, found.digest) != (wanted.rows, wanted.digest):
                raise DatabaseRefused(
                    f"{self._places[1]} differs from {self._places[0]} in its table {table.name}: "
                    f"it has {found.rows:,} rows, and should have {wanted.rows:,}. The source was "
                    "not changed. Run it again, which copies what differs."
                )

    def _tell(self, what: str, more: int) -> None:
        self._done += more
        self._told(what, self._done, sum(self._counts.values()))

    def result(self) -> Moved:
        """Return what was moved."""
        digest = hashlib.sha256(b"".join(self._sums[table].digest for table in TABLES))
        return Moved({table.name: self._sums[table].rows for table in TABLES}, digest.hexdigest())


def move(source: Movable, destination: Movable, progress: Progress) -> Moved:
    """Move a book, or go on with it; raise a `PwserverError`.

    Afterwards the source is marked, and the destination is the book.
    """
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(source.source())
        make = ours.mark is None
        try:
            theirs = stack.enter_context(destination.destination(source.place, make=make))
        except DatabaseRefused:
            if ours.mark is None:
                raise
            raise DatabaseRefused(ours.mark.sentence(source.place)) from None
        if ours.mark and (ours.mark.place, theirs.mark.state) != (destination.place, WHOLE):
            raise DatabaseRefused(ours.mark.sentence(source.place))
        run = _Move(ours, theirs, (source.place, destination.place), progress)
        run.copy()
        progress("Completing", 0, 2)
        theirs.complete()
        run.verify()
        theirs.mark_whole()
        progress("Completing", 1, 2)
        ours.mark_moved(destination.place)
        progress("Completing", 2, 2)
        theirs.unmark()
        return run.result()
