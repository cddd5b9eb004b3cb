"""Reading the book: from names to rows. Shared by the workers' answers and the console's listing.

A `BookReader` is a worker's `query_only` connection. It sees what is committed and never waits: a
database that cannot be read at this moment is `Unavailable`. A transaction lasts for one answer,
because an open one keeps the write-ahead log from being reused. The writer says on the scoreboard
when it has opened another database, and the reader follows.
"""

import contextlib
import functools
import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import apsw
import msgspec
from peewee import SQL, PeeweeException, fn

from pwserver.errors import DatabaseRefused, Unavailable
from pwserver.ipc import Scoreboard
from pwserver.limits import PAGE_BYTES_MAX, PAGE_ROWS_MAX
from workers.book.models import (
    APPLICATION,
    COMMON_BOOK,
    USER,
    Application,
    ApplicationRow,
    Key,
    Request,
    User,
    UserRow,
    sql,
)
from workers.book.names import GENERATED_PREFIX, first_generated_id, generated_id, generated_name
from workers.storage.database import database_to_read, open_to_read
from workers.storage.walk import in_order

_ENTRY_BYTES = 128
"""What a user takes in a reply beside its name and labels, near enough for a limit."""

_DAMAGED = "The database is damaged; `pwserver check` says where."

_decode_labels = msgspec.json.Decoder(list[str]).decode


class Entry(NamedTuple):
    """A user in a listing."""

    name: str
    version: int
    saved_at_ms: int
    labels: list[str]


class BookReader:
    """A worker's view of the database. All methods raise `Unavailable` where it cannot be read."""

    def __init__(self, path: Path, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._opened = 0  # which of the writer's openings the connection followed; 0: none
        self._database = database_to_read(path)
        self._connection: apsw.Connection
        self._build_statements()

    def find(self, book: int, name: str) -> UserRow | None:
        """Return the user of a name."""
        user_id = generated_id(name)
        if user_id is None:
            return self._user(self._by_name, (book, name))
        return self._user(self._by_generated_name, (book, user_id))

    def find_or_decoy(self, book: int, name: str) -> tuple[UserRow | None, bool]:
        """Return the user of a name and True; for a name that nobody has, some user and False.

        Both take the same steps and so the same time: the first name from that name on is searched
        for, and then the first user from its id on; that it is another is seen afterwards. There is
        no user to return only where there is none from there on.
        """
        user_id = generated_id(name)
        generated = user_id is not None
        with self._reading() as connection:
            if user_id is None:
                row = connection.execute(self._from_name, (book, name)).fetchone()
                user_id, found_name = row or (0, "")
            else:
                found_name = name
            row = connection.execute(self._from_id, (user_id,)).fetchone()
        if row is None:
            return None, False
        *columns, chosen = row
        user = UserRow(*columns)
        # No step is left out where the one before it has told already.
        is_named = (found_name == name) & (generated != bool(chosen))
        return user, is_named & (user.id == user_id) & (user.book == book)

    def find_by_id(self, user_id: int) -> UserRow | None:
        """Return the user of an id."""
        return self._user(self._by_id, (user_id,))

    def earlier(self, book: int, request_id: str) -> tuple[int, int, int] | None:
        """Return what a request that is remembered made: (user_id, version, fingerprint)."""
        with self._reading() as connection:
            row = connection.execute(self._by_request, (book, request_id)).fetchone()
        return cast("tuple[int, int, int] | None", row)

    # --- Who may use the book, and with which key. ---

    def applications(self) -> list[ApplicationRow]:
        """Return all applications, as they stand in the database."""
        with self._reading() as connection:
            return applications(connection)

    def sealing_key(self) -> int:
        """Return the number of the key to seal with."""
        with self._reading() as connection:
            row = connection.execute(self._sealing_key).fetchone()
        if row is None:
            raise Unavailable("The database does not say which key to seal with.")
        return int(row[0])

    # --- A page of a listing. ---

    def page(
        self, book: int, after: str, prefix: str, label: str | None, limit: int
    ) -> tuple[list[Entry], str | None]:
        """Return users in the order of their names, and the `after` of the next page.

        A page ends early where it has looked at `PAGE_ROWS_MAX` rows, or grown too long: then there
        is a next one, which goes on from there. It is what the book held at one moment.
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
                if entry is not None and (label is None or label in entry.labels):
                    users.append(entry)
                    size += _ENTRY_BYTES + len(name.encode())
                    size += sum([len(each.encode()) for each in entry.labels])
        return users, None

    def _in_order(
        self, connection: apsw.Connection, book: int, after: str, prefix: str
    ) -> Iterator[tuple[str, Entry | None]]:
        """Yield the users behind a name whose names begin with a prefix, by name.

        A name with None is one to pass over, so that who counts can stop in the middle of many.
        """
        first = max(after, prefix)
        streams: list[Iterable[tuple[str, Entry | None]]] = [self._chosen(connection, book, first)]
        if prefix.startswith(GENERATED_PREFIX) or GENERATED_PREFIX.startswith(prefix):
            streams.append(self._generated(connection, book, first))
        last = first
        for name, entry in heapq.merge(*streams, key=lambda item: item[0]):
            if name < last or name == last != first:
                raise Unavailable(_DAMAGED)  # else who asks page after page would go round for ever
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
        """Return the one row of a statement. What most answers begin with, so without ceremony."""
        try:
            if self._opened != self._scoreboard.openings:
                self._open()
            row = self._connection.execute(statement, parameters).fetchone()
        except (apsw.Error, PeeweeException) as error:
            raise _unavailable(error) from None
        return None if row is None else UserRow(*row)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """Give the connection to the database that the writer has open now."""
        try:
            if self._opened != self._scoreboard.openings:
                self._open()
            yield self._connection
        except (apsw.Error, PeeweeException) as error:
            raise _unavailable(error) from None

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[apsw.Connection]:
        """Read several times, and see one moment."""
        with self._reading() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("END")

    def _open(self) -> None:
        self._opened = 0
        self._database.close()
        openings = self._scoreboard.openings
        self._connection = open_to_read(self._database)
        self._opened = openings

    def _build_statements(self) -> None:
        in_book = User.book == 0
        user = User.select(*USER)
        self._by_name = sql(user.where(in_book & (User.username == "")))
        self._by_generated_name = sql(
            user.where(in_book & (User.id == 0) & User.username.is_null())
        )
        # SQLite plans again for a parameter whose value may matter to the plan (STAT4), which takes
        # 3 us. So the limit is none, and the plus says that the book's does not matter.
        this_book, one = User.book == SQL("+?", (0,)), SQL("1")
        name_and_id = User.select(User.id, User.username)
        names = name_and_id.where(this_book & (User.username >= ""))
        self._from_name = sql(names.order_by(User.username).limit(one))
        with_name = User.select(*USER, User.username.is_null(False))
        self._from_id = sql(with_name.where(User.id >= 0).order_by(User.id).limit(one))
        self._sealing_key = sql(Key.select(Key.id).where(Key.seals).order_by(Key.id.desc()))
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
        not_common = User.book != SQL("0")  # as the index has it
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
    """Return all applications in the order in which they were added, tombstones as well."""
    return [ApplicationRow(*row) for row in connection.execute(_applications())]


@functools.cache
def _applications() -> str:
    return sql(Application.select(*APPLICATION).order_by(Application.id))


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"The database cannot be read now: {error}.")


def _entry(name: str, version: int, saved_at_ms: int, labels: str | None) -> Entry:
    return Entry(name, version, saved_at_ms, [] if labels is None else _decode_labels(labels))


# --- All users, for the console. ---


def pages_of_users(
    path: Path, newest: int | None, size: int
) -> Iterator[list[tuple[int, str | None, int]]]:
    """Yield (id, username or None, saved_at_ms) of all users, or the newest so many, oldest first.

    Every page is a transaction of its own and nothing is held between pages: the console that
    prints them may be blocked for hours. Users saved after the first page are left out. A database
    that is not there, or cannot be read now, has no pages; in a damaged one they end early.
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
