"""Reads the book, for the workers' answers and for the console's listing.

A `BookReader` sees committed data and does not wait: if the database cannot be read now, it raises
`Unavailable`. A transaction lasts for one answer, because an open one keeps the write-ahead log
from being reused. The writer reports on the scoreboard when it has opened another database, and the
reader then reads that one. The worker that writes reads through the connection that writes, because
closing that would release the locks of a second one in the same process (fcntl(2)).
"""

import contextlib
import functools
import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import apsw
import msgspec
from peewee import SQL, PeeweeException, fn

from pwserver.errors import DatabaseRefused, Unavailable
from pwserver.ipc import Scoreboard
from pwserver.limits import PAGE_BYTES_MAX, PAGE_ROWS_MAX
from workers.book.models import (
    COMMON_BOOK,
    STORED_APPLICATION,
    USER,
    Application,
    ApplicationRow,
    Key,
    Request,
    User,
    UserRow,
    has_name,
    sql,
    stored_application,
)
from workers.book.names import GENERATED_PREFIX, first_generated_id, generated_id, generated_name
from workers.storage.operations import Entry
from workers.storage.sqlite.database import database_to_read, open_to_read
from workers.storage.sqlite.walk import in_order

_ENTRY_BYTES = 128
"""The approximate size of a user in a reply besides its name and labels."""

_DAMAGED = "The database is damaged; `pwserver check` says where."

_decode_labels = msgspec.json.Decoder(list[str]).decode


class ReadingConnection:
    """A `query_only` connection, for a process that does not write."""

    def __init__(self, path: Path) -> None:
        self._database = database_to_read(path)

    def connect(self) -> apsw.Connection:
        """Open the database that is at the path now, in place of the one that was."""
        self._database.close()
        return open_to_read(self._database)


class BookReader:
    """A worker's view of the database. All methods raise `Unavailable` if it cannot be read.

    `connect` returns the connection to the writer's present database.
    """

    links = ()

    def __init__(self, scoreboard: Scoreboard, connect: Callable[[], apsw.Connection]) -> None:
        self._scoreboard = scoreboard
        self._connect = connect
        self._opened = 0  # the number of the writer's opening that is read; 0: none
        self._connection: apsw.Connection
        self._build_statements()

    def find(self, book: int, name: str) -> UserRow | None:
        """Return the user that has a name, or None."""
        user_id = generated_id(name)
        if user_id is None:
            return self._user(self._by_name, (book, name))
        return self._user(self._by_generated_name, (book, user_id))

    def find_or_decoy(self, book: int, name: str) -> tuple[UserRow | None, bool]:
        """Return the user that has a name and True, or some other user and False.

        Both cases take the same steps and so the same time: search for the first name that is not
        less than `name`, then for the first user whose id is not less than that name's, and only
        then compare. It returns no user only if there is none from there on.
        """
        user_id = generated_id(name)
        if user_id is None:
            user = self._user(self._from_name, (book, name))
        else:
            user = self._user(self._from_id, (user_id,))
        return user, user is not None and has_name(user, book, name, user_id)

    def find_by_id(self, user_id: int) -> UserRow | None:
        """Return the user that has an id, or None."""
        return self._user(self._by_id, (user_id,))

    def earlier(self, book: int, request_id: str) -> tuple[int, int, int] | None:
        """Return (user_id, version, fingerprint) of a remembered request, or None."""
        with self._reading() as connection:
            row = connection.execute(self._by_request, (book, request_id)).fetchone()
        return cast("tuple[int, int, int] | None", row)

    def serial(self, number: int) -> int:
        """Return the number that tells a worker from the others: there is one host."""
        return number

    # --- Applications and keys. ---

    def applications(self) -> list[ApplicationRow]:
        """Return the rows of all applications, unverified."""
        with self._reading() as connection:
            return applications(connection)

    def sealing_key(self) -> int:
        """Return the number of the key to seal with."""
        with self._reading() as connection:
            return sealing_key(connection)

    # --- A page of a listing. ---

    def page(
        self, book: int, after: str, prefix: str, label: str | None, limit: int
    ) -> tuple[list[Entry], str | None]:
        """Return users in the order of their names, and the `after` of the next page.

        A page ends early after `PAGE_ROWS_MAX` rows or `PAGE_BYTES_MAX` bytes, for which the labels
        of users count that have not the `label`; the next page continues there. A page shows the
        book as it was at one moment.
        """
        users: list[Entry] = []
        size = looked_at = 0
        last = after
        with self._snapshot() as connection:
            for name, entry in self._in_order(connection, book, after, prefix):
                full = len(users) == limit or size > PAGE_BYTES_MAX
                if full or looked_at == PAGE_ROWS_MAX:
                    return users, last
                looked_at += 1
                last = name
                if entry is None:
                    continue
                if label is None or label in entry.labels:
                    users.append(entry)
                    size += _ENTRY_BYTES + len(name.encode())
                    size += sum([len(each.encode()) for each in entry.labels])
                else:
                    size += sum(map(len, entry.labels))
        return users, None

    def _in_order(
        self, connection: apsw.Connection, book: int, after: str, prefix: str
    ) -> Iterator[tuple[str, Entry | None]]:
        """Yield names after `after` that begin with a prefix, in order, with their users.

        A name with None is not listed, but is yielded so that the caller can count the rows.
        """
        first = max(after, prefix)
        streams: list[Iterable[tuple[str, Entry | None]]] = [self._chosen(connection, book, first)]
        if prefix.startswith(GENERATED_PREFIX) or GENERATED_PREFIX.startswith(prefix):
            streams.append(self._generated(connection, book, first))
        last = first
        for name, entry in heapq.merge(*streams, key=lambda item: item[0]):
            if name < last or name == last != first:
                raise Unavailable(_DAMAGED)  # otherwise the pages of a listing might never end
            last = name
            if not name.startswith(prefix):
                return
            if name != after:
                yield name, entry

    def _chosen(
        self, connection: apsw.Connection, book: int, first: str
    ) -> Iterator[tuple[str, Entry]]:
        for row in connection.execute(self._chosen_names, (book, first)):
            yield row[0], _entry(*row)

    def _generated(
        self, connection: apsw.Connection, book: int, first: str
    ) -> Iterator[tuple[str, Entry | None]]:
        first_id = first_generated_id(first)
        if book != COMMON_BOOK:
            for user_id, *rest in connection.execute(self._own_ids, (book, first_id)):
                name = generated_name(user_id)
                yield name, _entry(name, *rest)
            return
        for user_id, its_book, chosen, *rest in connection.execute(self._ids, (first_id,)):
            name = generated_name(user_id)
            belongs = its_book == book and chosen is None
            yield name, _entry(name, *rest) if belongs else None

    # --- The connection. ---

    def _user(self, statement: str, parameters: tuple[int | str, ...]) -> UserRow | None:
        """Return the one row of a statement. Most answers call this, so it uses no `_reading`."""
        try:
            if self._opened != self._scoreboard.openings:
                self._open()
            row = self._connection.execute(statement, parameters).fetchone()
        except (apsw.Error, PeeweeException) as error:
            raise _unavailable(error) from None
        return None if row is None else UserRow(*row)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """Yield the connection, after opening the writer's present database if it is another."""
        try:
            if self._opened != self._scoreboard.openings:
                self._open()
            yield self._connection
        except (apsw.Error, PeeweeException) as error:
            raise _unavailable(error) from None

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[apsw.Connection]:
        """Yield the connection in a transaction: all statements see the book at one moment."""
        with self._reading() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("END")

    def _open(self) -> None:
        self._opened = 0
        openings = self._scoreboard.openings
        self._connection = self._connect()
        self._opened = openings

    def _build_statements(self) -> None:
        in_book = User.book == 0
        user = User.select(*USER)
        self._by_name = sql(user.where(in_book & (User.username == "")))
        self._by_generated_name = sql(
            user.where(in_book & (User.id == 0) & User.username.is_null())
        )
        # SQLite plans again if a parameter's value may matter to the plan (STAT4), which takes 3
        # us. So the limit is a constant, and the plus takes the book out of the planning.
        one, other = SQL("1"), User.alias()
        this_book = other.book == SQL("+?", (0,))
        first = (
            other.select(other.id)
            .where(this_book & (other.username >= ""))
            .order_by(other.username)
            .limit(one)
        )
        from_first = User.id >= fn.COALESCE(first, SQL("0"))
        self._from_name = sql(user.where(from_first).order_by(User.id).limit(one))
        self._from_id = sql(user.where(User.id >= 0).order_by(User.id).limit(one))
        self._by_id = sql(user.where(User.id == 0))
        self._by_request = sql(
            Request.select(Request.user_id, Request.version, Request.fingerprint).where(
                (Request.book == 0) & (Request.request_id == "")
            )
        )
        listed = (User.version, User.saved_at_ms, User.labels)
        self._chosen_names = sql(
            User.select(User.username, *listed)
            .where(in_book & (User.username >= ""))
            .order_by(User.username)
        )
        not_common = User.book != SQL("0")  # the condition of the index
        self._own_ids = sql(
            User.select(User.id, *listed)
            .where(in_book & User.username.is_null() & not_common & (User.id >= 0))
            .order_by(User.id)
        )
        self._ids = sql(
            User.select(User.id, User.book, User.username, *listed)
            .where(User.id >= 0)
            .order_by(User.id)
        )


def applications(connection: apsw.Connection) -> list[ApplicationRow]:
    """Return all applications, tombstones too, in the order in which they were added."""
    return [stored_application(row) for row in connection.execute(_applications())]


@functools.cache
def _applications() -> str:
    return sql(Application.select(*STORED_APPLICATION).order_by(Application.id))


def sealing_key(connection: apsw.Connection) -> int:
    """Return the number of the key to seal with; raise `Unavailable` if none is chosen."""
    row = connection.execute(_sealing_key()).fetchone()
    if row is None:
        raise Unavailable("The database does not say which key to seal with.")
    return int(row[0])


@functools.cache
def _sealing_key() -> str:
    return sql(Key.select(Key.id).where(Key.seals).order_by(Key.id.desc()))


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"The database cannot be read now: {error}.")


def _entry(name: str, version: int, saved_at_ms: int, labels: str | None) -> Entry:
    return Entry(name, version, saved_at_ms, [] if labels is None else _decode_labels(labels))


# --- All users, for the console. ---


def pages_of_users(
    path: Path, newest: int | None, size: int
) -> Iterator[list[tuple[int, str | None, int]]]:
    """Yield (id, username or None, saved_at_ms) of all users or the `newest`, oldest first.

    Every page is read in its own transaction and none is open between pages, because the console
    that prints them may be blocked for hours. Users saved after the first page are left out. If the
    database is missing or cannot be read now, there are no pages; if it is damaged, they end early.
    """
    database = database_to_read(path)
    unreadable = contextlib.suppress(PeeweeException, apsw.Error, DatabaseRefused)
    with unreadable, contextlib.closing(database):
        connection = open_to_read(database)
        final = User.select(fn.MAX(User.id)).scalar()
        if final is None:
            return
        first = 0
        if newest is not None:
            if newest == 0:
                return
            oldest = User.select(User.id).order_by(User.id.desc()).limit(1).offset(newest - 1)
            first = oldest.scalar() or 0
        users = User.select(User.id, User.username, User.saved_at_ms).order_by(User.id)
        select = sql(users.where((User.id > 0) & (User.id <= 0)))
        yield from in_order(connection, select, (final,), at_a_time=size, after=first - 1)
