"""Moves a book out of a database of PostgreSQL, or into an empty one (`workers.storage.movable`).

Whoever moves has the lock that services share. A source is read in one transaction that has locked
its tables as well. Its mark gives two of them other names: so even a service that lost its
connection before, and comes back, can neither read nor write.
"""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence

import psycopg
from psycopg import sql

from pwserver.errors import AdministrationRefused, DatabaseRefused
from workers.storage.movable import (
    DROP_MARK,
    HALF,
    MAKE_MARK,
    MOVED,
    TABLES,
    WHOLE,
    Mark,
    StoredRow,
    Table,
    check_is_being_filled,
    check_may_be_unmarked,
    nothing_there,
)
from workers.storage.postgres import schema

_ROWS_AT_A_TIME = 200
"""Rows of an answer of the server; one with many long versions may have hundreds of KiB."""

_RENAMED = {"user": "user_moved", "writer": "writer_moved"}

_OURS = {"pwserver", *_RENAMED, *_RENAMED.values(), *(table.name for table in TABLES)}

_NO_TIMEOUTS = """SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')"""
"""One transaction lasts as long as the move."""

_IN_USE_S = 3.0
"""How long to wait for services that have just stopped."""

_NOT_REPLICATED = "01000"
"""A wait for the standby was cancelled: the commit may be lost at the next failover."""


class PostgresMovable:
    """A database of PostgreSQL; `url` is how libpq names it, without a password."""

    def __init__(self, url: str) -> None:
        self.place = url

    @contextlib.contextmanager
    def source(self) -> Iterator["PostgresSource"]:
        """Open a book to move it away."""
        with self._connected() as connection:
            found = schema.tables(connection)
            if not found:
                raise DatabaseRefused(f"there is no password book in {self.place}.")
            schema.check_version(connection, found)
            mark = schema.mark_of(connection, found)
            connection.execute("BEGIN")
            for name in sorted(found & _OURS):
                lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
                connection.execute(lock.format(sql.Identifier(name)))
            yield PostgresSource(connection, mark)

    @contextlib.contextmanager
    def destination(self, place: str, *, make: bool) -> Iterator["PostgresDestination"]:
        """Open a database that a move began to fill; or make one, where none is."""
        with self._connected() as connection:
            with connection.transaction():
                schema.lock_making(connection)
                found = schema.tables(connection)
                if found:
                    schema.check_version(connection, found)
                    mark = schema.mark_of(connection, found)
                    mark = check_is_being_filled(mark, self.place, place)
                elif make:
                    schema.make_tables(connection)
                    mark = _mark(connection, HALF, place)
                else:
                    raise nothing_there(self.place)
            yield PostgresDestination(connection, mark)

    def unmark(self) -> None:
        """Let a database that was moved be used again."""
        with self._connected() as connection, connection.transaction():
            schema.lock_making(connection)
            found = schema.tables(connection)
            schema.check_version(connection, found)
            check_may_be_unmarked(schema.mark_of(connection, found), self.place)
            for name, away in _RENAMED.items():
                _rename(connection, away, name)
            connection.execute(DROP_MARK)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        """Connect with the lock of services; say in a sentence what the server refuses."""
        with schema.connected(self.place) as connection:
            schema.check_server(schema.settings(connection))
            connection.execute(_NO_TIMEOUTS)
            deadline = time.monotonic() + _IN_USE_S
            lock = "SELECT pg_try_advisory_lock(%s)"
            while connection.execute(lock, (schema.LOCK_SERVICE,)).fetchone() != (True,):
                if time.monotonic() > deadline:
                    raise AdministrationRefused(
                        f"a service, or another `pwserver move`, uses {self.place}: stop it first, "
                        "on every host. Nothing was changed."
                    )
                time.sleep(0.05)
            yield connection


def _mark(connection: psycopg.Connection, state: str, place: str) -> Mark:
    mark = Mark(state, place, time.time_ns() // 1_000_000)
    connection.execute(MAKE_MARK)
    connection.execute("INSERT INTO move VALUES (%s, %s, %s)", mark)
    return mark


def _rename(connection: psycopg.Connection, old: str, new: str) -> None:
    rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
    connection.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))


def _commit(connection: psycopg.Connection) -> None:
    """Commit what has begun; raise `DatabaseRefused` if it may not be durable."""
    doubts: list[str] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate == _NOT_REPLICATED:
            doubts.append(notice.message_primary or "")

    connection.add_notice_handler(note)
    try:
        connection.execute("COMMIT")
    finally:
        connection.remove_notice_handler(note)
    if doubts:
        raise DatabaseRefused(
            f"a commit may not have reached the standby: {doubts[0]}. Run it again to go on."
        )


class _Rows:
    """The rows of a database."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def _name(self, table: Table) -> sql.Identifier:
        return sql.Identifier(table.name)

    def count(self, table: Table) -> int:
        """Return the number of rows."""
        select = sql.SQL("SELECT count(*) FROM {}").format(self._name(table))
        row = self._connection.execute(select).fetchone()
        assert row is not None
        return int(row[0])

    def rows(self, table: Table) -> Generator[StoredRow, None, None]:
        """Yield all rows in the order of their ids."""
        select = sql.SQL("SELECT {} FROM {} ORDER BY id").format(_columns(table), self._name(table))
        with (
            self._connection.transaction(),
            self._connection.cursor("rows", scrollable=False) as cursor,
        ):
            cursor.itersize = _ROWS_AT_A_TIME
            cursor.execute(select, binary=True)
            yield from cursor


def _columns(table: Table) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, table.columns))


class PostgresSource(_Rows):
    """A book that is moved away, within one transaction."""

    def __init__(self, connection: psycopg.Connection, mark: Mark | None) -> None:
        super().__init__(connection)
        self.mark = mark

    def _name(self, table: Table) -> sql.Identifier:
        names = _RENAMED if self.mark else {}
        return sql.Identifier(names.get(table.name, table.name))

    def mark_moved(self, place: str) -> None:
        """Mark it as moved, if it is not, and have that on the standby as well."""
        if self.mark is None:
            self.mark = _mark(self._connection, MOVED, place)
            for name, away in _RENAMED.items():
                _rename(self._connection, name, away)
        else:  # the standby may not have it yet
            self._connection.execute("UPDATE move SET state = state")
        _commit(self._connection)


class PostgresDestination(_Rows):
    """A database that is being filled."""

    def __init__(self, connection: psycopg.Connection, mark: Mark) -> None:
        super().__init__(connection)
        self.mark = mark
        self._types: dict[Table, list[int]] = {}

    def cut(self, table: Table, last: int | None) -> None:
        """Delete the rows after an id; None: all."""
        delete = sql.SQL("DELETE FROM {} WHERE %s::bigint IS NULL OR id > %s::bigint")
        self._connection.execute(delete.format(self._name(table)), (last, last))

    def put(self, table: Table, rows: Sequence[StoredRow]) -> None:
        """Add rows in one transaction."""
        columns = _columns(table)
        if table not in self._types:
            select = sql.SQL("SELECT {} FROM {} LIMIT 0").format(columns, self._name(table))
            described = self._connection.execute(select).description or []
            self._types[table] = [column.type_code for column in described]
        copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self._name(table), columns)
        try:
            with self._connection.cursor() as cursor, cursor.copy(copy) as copied:
                copied.set_types(self._types[table])
                for row in rows:
                    copied.write_row(row)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise DatabaseRefused(
                f"{schema.why(error)} It is about the table {table.name}, a row from {rows[0][0]} "
                f"to {rows[-1][0]}. The source was not changed; `pwserver check` may say more."
            ) from None

    def complete(self) -> None:
        """Note the number of users, and let what the server numbers go on after the greatest id."""
        with self._connection.transaction():
            self._connection.execute("DELETE FROM writer")
            self._connection.execute('INSERT INTO writer (users) SELECT count(*) FROM "user"')
            for table in TABLES:
                name = self._name(table)
                number = sql.SQL(
                    "SELECT setval(pg_get_serial_sequence({}, 'id'), greatest(max(id), 1),"
                    " max(id) IS NOT NULL) FROM {}"
                )
                quoted = sql.Literal(name.as_string(self._connection))
                self._connection.execute(number.format(quoted, name))
        self._connection.execute("ANALYZE")

    def mark_whole(self) -> None:
        """Make the mark `WHOLE`; what was committed before is durable with it."""
        self._connection.execute("BEGIN")
        self._connection.execute("UPDATE move SET state = %s", (WHOLE,))
        _commit(self._connection)
        self.mark = self.mark._replace(state=WHOLE)

    def unmark(self) -> None:
        """Take the mark away: this is the book now."""
        self._connection.execute("BEGIN")
        self._connection.execute(DROP_MARK)
        _commit(self._connection)
