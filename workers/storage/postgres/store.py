"""The interface's `Store` for a database on a PostgreSQL server, which many hosts may share."""

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg import pq

from pwserver.errors import DatabaseRefused
from pwserver.ipc import Scoreboard
from workers.book.keyring import Keyring
from workers.storage.operations import CheckValues
from workers.storage.postgres import book, schema
from workers.storage.postgres.committing import PostgresCommitter
from workers.storage.postgres.reading import PostgresReader
from workers.storage.postgres.statements import EMPTIED_TOGETHER
from workers.storage.store import Committer

_USERS = 'SELECT id, username, saved_at_ms FROM "user"'

_REMOVE = f"""WITH few AS (SELECT id FROM "user" WHERE book IN
        (SELECT id FROM application WHERE may = 'removed' AND id <> 0) LIMIT {EMPTIED_TOGETHER}),
      made AS (DELETE FROM "user" WHERE id IN (TABLE few) RETURNING 1)
    INSERT INTO writer (users) SELECT -count(*) FROM made HAVING count(*) > 0 RETURNING 1"""


class PostgresStore:
    """A book in a database; `url` is how libpq names it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def parts(self) -> dict[str, str]:
        """The versions of its parts, for `status`."""
        number = pq.version()
        return {"psycopg": psycopg.__version__, "libpq": f"{number // 10000}.{number % 10000}"}

    # --- The service. ---

    def committer(
        self,
        keys: CheckValues,
        requests_kept_ms: int,
        scoreboard: Scoreboard,
        reserve_bytes: int,
        patience_s: float,
    ) -> PostgresCommitter:
        """Return what commits for this host. It connects later, and knows the keys from there."""
        return PostgresCommitter(self._url, requests_kept_ms, scoreboard, patience_s)

    def reader(self, scoreboard: Scoreboard, committer: Committer | None) -> PostgresReader:
        """Return a worker's reader, which has a connection of its own."""
        return PostgresReader(self._url, scoreboard)

    def pages_of_users(
        self, newest: int | None, size: int
    ) -> Iterator[list[tuple[int, str | None, int]]]:
        """Yield (id, username or None, saved_at_ms) of users, oldest first."""
        if newest == 0:
            return
        with (
            contextlib.suppress(psycopg.Error, DatabaseRefused),
            schema.connected(self._url) as connection,
        ):
            row = connection.execute('SELECT max(id) FROM "user"').fetchone()
            if row is None or (final := row[0]) is None:
                return
            last = -1
            if newest is not None:
                oldest = f"{_USERS} ORDER BY id DESC LIMIT 1 OFFSET %s"
                first = connection.execute(oldest, (newest - 1,)).fetchone()
                last = first[0] - 1 if first else last
            select = f"{_USERS} WHERE id > %s AND id <= %s ORDER BY id LIMIT %s"
            while page := connection.execute(select, (last, final, size)).fetchall():
                yield page
                last = page[-1][0]

    # --- Before it is used. ---

    def holds_a_book(self) -> bool:
        """Tell whether there is anything in the database, so that a key for it must exist."""
        with schema.connected(self._url) as connection:
            return bool(schema.tables(connection))

    def require_a_book(self) -> None:
        """Raise `DatabaseRefused` if there is no book yet, or it cannot be reached."""
        if not self.holds_a_book():
            raise DatabaseRefused(f"there is no password book in {self._url} yet.")

    def check_can_be_made(self) -> None:
        """Raise `DatabaseRefused` if the server is away, or not fit for a book."""
        with schema.connected(self._url) as connection:
            schema.check_server(schema.settings(connection))

    def check_is_a_book(self) -> None:
        """Raise `DatabaseRefused` for a database of another program."""
        with schema.connected(self._url) as connection:
            schema.check_tables(connection, schema.tables(connection))

    def check(self, keyring: Keyring) -> None:
        """Check the book as the service would, and make it if there is none."""
        schema.prepare(self._url, keyring.check_values)

    # --- Administration. ---

    def is_in_use(self) -> bool:
        """Tell whether a service of any host is connected."""
        with schema.connected(self._url) as connection:
            lock = "SELECT pg_try_advisory_xact_lock(%s)"
            return not _value(connection, lock, schema.LOCK_SERVICE)

    def administered(
        self, keyring: Keyring
    ) -> contextlib.AbstractContextManager[book.PostgresBook]:
        """Open a book to change it, while services may be using it."""
        return book.opened(self._url, keyring, changes=True)

    def examined(self, keyring: Keyring) -> contextlib.AbstractContextManager[book.PostgresBook]:
        """Open a book to read it, and change nothing."""
        return book.opened(self._url, keyring, changes=False)

    def delete_removed(self, keyring: Keyring) -> None:
        """Delete all users of removed books, unless a service is connected, which does so."""
        with schema.connected(self._url) as connection:
            if self.is_in_use():
                return
            while connection.execute(_REMOVE).fetchone():
                pass


def _value(connection: psycopg.Connection, statement: str, *parameters: object) -> object:
    row = connection.execute(statement, parameters).fetchone()
    return row and row[0]
