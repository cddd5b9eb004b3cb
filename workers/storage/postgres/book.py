"""A book on a PostgreSQL server that is open for an administrator's command, through the models."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from peewee import DatabaseError, PeeweeException, Query
from playhouse.postgres_ext import Psycopg3Database
from psycopg import errors

from pwserver.errors import DatabaseRefused, Unavailable
from workers.book import models
from workers.book.keyring import Keyring
from workers.book.models import APPLICATION, USER, Application, ApplicationRow, Key, sql
from workers.storage.postgres import schema
from workers.storage.store import Misplaced, Page

_FIRST_ID = -(2**63)
_TRIES = 5
_LATELY = "5 s"
"""A writer shows signs of life four times a second."""


class _Database(Psycopg3Database):  # type: ignore[misc]
    """peewee's database, from a connection string as libpq takes it."""

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self.database, autocommit=True)


class PostgresBook:
    """The interface's `OpenBook`."""

    user_columns = USER

    def __init__(self, database: _Database) -> None:
        self._database = database
        self._connection: psycopg.Connection = database.connection()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Begin a transaction that keeps other writers away, and commit it at the end.

        The writers of all hosts share the lock of the keys in each commit.
        """
        with self._database.atomic():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (schema.LOCK_KEYS,))
            yield
            self._connection.execute("UPDATE pwserver SET generation = generation + 1")

    def applications(self) -> list[ApplicationRow]:
        """Return all applications, tombstones too, in the order in which they were added."""
        rows: Any = Application.select(*APPLICATION).order_by(Application.id).tuples()
        return [ApplicationRow(*row) for row in rows]

    def sealing_key(self) -> int:
        """Return the number of the key to seal with; raise `Unavailable` if none is chosen."""
        row = Key.select(Key.id).where(Key.seals).order_by(Key.id.desc()).tuples().first()
        if row is None:
            raise Unavailable("The database does not say which key to seal with.")
        return int(row[0])

    def pages(
        self,
        query: Query,
        *parameters: int,
        at_a_time: int,
        misplaced: Misplaced | None = None,
    ) -> Iterator[Page]:
        """Yield the rows of a query some at a time, with no transaction open in between.

        No row is ever out of order: the server sorts them.
        """
        select = f"{sql(query)} LIMIT {at_a_time}"
        last = _FIRST_ID
        try:
            while page := self._connection.execute(select, (last, *parameters)).fetchall():
                yield page
                last = page[-1][0]
        except psycopg.Error as error:
            raise DatabaseError(schema.why(error)) from error

    def change_rows(self, query: Query, parameters: Sequence[Sequence[Any]]) -> float:
        """Run a query with each of the parameters in one transaction.

        Returns for how many seconds it waited for its turn.
        """
        for _ in range(_TRIES - 1):
            with contextlib.suppress(errors.DeadlockDetected, errors.SerializationFailure):
                return self._change_rows(sql(query), parameters)
        return self._change_rows(sql(query), parameters)

    def _change_rows(self, text: str, parameters: Sequence[Sequence[Any]]) -> float:
        began = time.monotonic()
        lock = "SELECT pg_advisory_xact_lock_shared(%s)"
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(lock, (schema.LOCK_KEYS,))
            waited_s = time.monotonic() - began
            cursor.executemany(text, parameters)
        return waited_s

    def hosts_lacking(self, key_id: int) -> list[str]:
        """Return the hosts whose writers have shown signs of life lately, and lack a key."""
        select = f"""SELECT DISTINCT host FROM writer WHERE at > now() - interval '{_LATELY}'
            AND NOT keys @> ARRAY[%s::int] AND host <> '' ORDER BY host"""
        return [host for (host,) in self._connection.execute(select, (key_id,))]

    def damages(self) -> Iterator[str]:
        """Yield a sentence if the writers have counted other users than there are."""
        select = 'SELECT (SELECT sum(users)::bigint FROM writer), (SELECT count(*) FROM "user")'
        row = self._connection.execute(select).fetchone()
        if row is not None and (row[0] or 0) != row[1]:
            yield f"its writers have counted {row[0] or 0} users, and there are {row[1]}"


@contextlib.contextmanager
def opened(url: str, keyring: Keyring, *, changes: bool) -> Iterator[PostgresBook]:
    """Open a book; raise a `StoreError` that says in a sentence what is wrong."""
    database = _Database(schema.with_timeout(url))
    models.database.initialize(database)
    try:
        database.connect()
        connection: psycopg.Connection = database.connection()
        connection.execute(schema.LOCK_TIMEOUT)
        schema.check_server(schema.settings(connection))
        schema.check_tables(connection, schema.tables(connection))
        schema.check_keys(connection, keyring.check_values)
        if not changes:
            connection.execute("SET default_transaction_read_only = on")
        yield PostgresBook(database)
    except psycopg.Error as error:
        raise DatabaseRefused(schema.why(error)) from None
    except PeeweeException as error:
        raise DatabaseRefused(schema.why(error)) from None
    finally:
        database.close()
