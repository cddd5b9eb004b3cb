"""Moves a book out of a file of SQLite, or into a new one; see `workers.storage.movable`.

Whoever moves has the lock that services take. A source is read in one transaction that keeps all
who write away, and that ends with its mark. A destination is synced at its checkpoints, and its
indexes are made at the end: in the order of the ids, names would be put into theirs at random.
"""

import contextlib
import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import apsw
from peewee import SchemaManager
from playhouse.apsw_ext import APSWDatabase

from pwserver.errors import AdministrationRefused, DatabaseRefused
from workers.book import models
from workers.book.models import SCHEMA_VERSION
from workers.storage.movable import (
    DROP_MARK,
    HALF,
    MAKE_MARK,
    MOVED,
    WHOLE,
    Mark,
    StoredRow,
    Table,
    check_is_being_filled,
    check_may_be_unmarked,
    nothing_there,
)
from workers.storage.sqlite import database, generations
from workers.storage.sqlite.validation import (
    APPLICATION_ID,
    check_pages,
    check_sqlite,
    check_version,
    is_empty,
    mark_of,
    refusals,
    run_nothing_of,
)

_WAIT_S = 10
"""How long to wait for an administrator's command that has the book open."""

_FILLING = database.PRAGMAS | {
    "synchronous": "normal",  # a power failure takes rows away, and leaves none in between
    "wal_autocheckpoint": 4096,
}

_SELECTED = {"request_id": "CAST(request_id AS BLOB)"}  # a text may have a NUL in it
_INSERTED = {"request_id": "CAST(? AS TEXT)"}
_READ_AS = {"seals": bool}


class SqliteMovable:
    """A file, or the place for one."""

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        self.place = str(self._path)

    @contextlib.contextmanager
    def source(self) -> Iterator["SqliteSource"]:
        """Open a book to move it away."""
        database.require_a_book(self._path)
        with self._opened(database.PRAGMAS) as opened:
            check_version(opened, self._path)
            check_pages(opened, self._path)
            with refusals(self._path):
                opened.begin("IMMEDIATE")
            try:
                yield SqliteSource(opened, self._path)
            finally:
                opened.rollback()

    @contextlib.contextmanager
    def destination(self, place: str, *, make: bool) -> Iterator["SqliteDestination"]:
        """Open a database that a move began to fill; or make one, where none is."""
        database.check_can_be_made(self._path)
        if not database.holds_a_book(self._path):
            if not make:
                raise nothing_there(self.place)
            os.close(database.open_and_lock(self._path, Path(f"{self._path}-wal")))
        with self._opened(_FILLING) as opened:
            if is_empty(opened):
                mark = _make(opened, self._path, place)
            else:
                check_version(opened, self._path)
                mark = check_is_being_filled(mark_of(opened), self.place, place)
            yield SqliteDestination(opened, self._path, mark)

    def unmark(self) -> None:
        """Let a database that was moved be used again."""
        database.require_a_book(self._path)
        with self._opened(database.PRAGMAS) as opened:
            check_version(opened, self._path)
            check_may_be_unmarked(mark_of(opened), self.place)
            with refusals(self._path):
                opened.execute_sql(DROP_MARK)

    @contextlib.contextmanager
    def _opened(self, pragmas: dict[str, object]) -> Iterator[APSWDatabase]:
        """Open an existing file under the lock of services, and check its log."""
        path = self._path
        check_sqlite()
        if database.is_in_use(path):
            raise AdministrationRefused(
                f"a service runs on {path}: stop it first (`pwserver stop`). Nothing was changed."
            )
        lock = database.lock_existing(path)
        opened = APSWDatabase(
            self.place, pragmas=pragmas, timeout=_WAIT_S, flags=apsw.SQLITE_OPEN_READWRITE
        )
        try:
            generations.refuse_emptied(path)
            with refusals(path):
                opened.connect()
                connection: apsw.Connection = opened.connection()
                run_nothing_of(connection)
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                generations.check_log(opened, path)
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            yield opened
        finally:
            try:
                opened.close()
            finally:  # last, because closing any descriptor of a file drops SQLite's locks on it
                os.close(lock)


def _make(opened: APSWDatabase, path: Path, place: str) -> Mark:
    """Make the tables and a mark in an empty file, and no index yet."""
    with refusals(path):
        models.database.initialize(opened)
        opened.pragma("journal_mode", "wal")
        with opened.atomic("IMMEDIATE"):
            for model in models.TABLES:
                SchemaManager(model).create_table()
            generations.make_first(opened.connection())
            mark = _mark(opened, HALF, place)
            opened.pragma("application_id", APPLICATION_ID)
            opened.pragma("user_version", SCHEMA_VERSION)
    return mark


def _mark(opened: APSWDatabase, state: str, place: str) -> Mark:
    """Put a mark into a database."""
    mark = Mark(state, place, time.time_ns() // 1_000_000)
    opened.execute_sql(MAKE_MARK)
    opened.execute_sql("INSERT INTO move VALUES (?, ?, ?)", mark)
    return mark


class _Rows:
    """The rows of an open database."""

    def __init__(self, opened: APSWDatabase, path: Path) -> None:
        self._database = opened
        self._connection: apsw.Connection = opened.connection()
        self._path = path

    def count(self, table: Table) -> int:
        """Return the number of rows."""
        with refusals(self._path):
            return int(self._connection.execute(f'SELECT COUNT(*) FROM "{table.name}"').get)

    def rows(self, table: Table) -> Generator[StoredRow, None, None]:
        """Yield all rows in the order of their ids."""
        columns = ", ".join(_SELECTED.get(column, column) for column in table.columns)
        special = [(place, _READ_AS[c]) for place, c in enumerate(table.columns) if c in _READ_AS]
        with refusals(self._path):
            found = self._connection.execute(f'SELECT {columns} FROM "{table.name}" ORDER BY id')
            try:
                for row in found:
                    if not special:
                        yield row
                        continue
                    read = list(row)
                    for place, kind in special:
                        read[place] = kind(read[place])
                    yield tuple(read)
            except UnicodeDecodeError:
                raise DatabaseRefused(
                    f"{self._path} has a text that is not UTF-8: somebody has altered it. "
                    "`pwserver check` says where."
                ) from None
            finally:
                found.close()


class SqliteSource(_Rows):
    """A book that is moved away, within one transaction."""

    def __init__(self, opened: APSWDatabase, path: Path) -> None:
        super().__init__(opened, path)
        self.mark = mark_of(opened)

    def mark_moved(self, place: str) -> None:
        """Mark it as moved, if it is not, durably."""
        with refusals(self._path):
            self.mark = self.mark or _mark(self._database, MOVED, place)
            self._database.commit()


class SqliteDestination(_Rows):
    """A file that is being filled."""

    def __init__(self, opened: APSWDatabase, path: Path, mark: Mark) -> None:
        super().__init__(opened, path)
        self.mark = mark

    def cut(self, table: Table, last: int | None) -> None:
        """Delete the rows after an id; None: all."""
        where, parameters = ("", ()) if last is None else (" WHERE id > ?", (last,))
        with refusals(self._path), self._database.atomic("IMMEDIATE"):
            self._connection.execute(f'DELETE FROM "{table.name}"{where}', parameters)

    def put(self, table: Table, rows: Sequence[StoredRow]) -> None:
        """Add rows in one transaction."""
        columns = ", ".join(table.columns)
        values = ", ".join(_INSERTED.get(column, "?") for column in table.columns)
        insert = f'INSERT INTO "{table.name}" ({columns}) VALUES ({values})'
        with refusals(self._path), self._database.atomic("IMMEDIATE"):
            self._connection.executemany(insert, rows)

    def complete(self) -> None:
        """Make the indexes, if they are not there."""
        with refusals(self._path):
            models.database.initialize(self._database)
            for model in models.TABLES:
                SchemaManager(model).create_indexes()

    def mark_whole(self) -> None:
        """Have all of it on the disk, and then the mark."""
        with refusals(self._path):
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._connection.pragma("synchronous", "full")
            self._connection.execute("UPDATE move SET state = ?", (WHOLE,))
        self.mark = self.mark._replace(state=WHOLE)

    def unmark(self) -> None:
        """Take the mark away, durably."""
        with refusals(self._path):
            self._connection.pragma("synchronous", "full")
            self._connection.execute(DROP_MARK)
