"""The interface's `Store` for a file of SQLite. What it does is in the files beside it."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
from peewee import DatabaseError, Query
from playhouse.apsw_ext import APSWDatabase

from pwserver.errors import DatabaseRefused
from pwserver.ipc import Scoreboard
from pwserver.limits import CHECKPOINT_PAGES
from workers.book.keyring import Keyring
from workers.book.models import STORED_USER, ApplicationRow, sql
from workers.storage.operations import CheckValues
from workers.storage.sqlite import database, generations, reading, validation, walk
from workers.storage.sqlite.committing import SqliteCommitter
from workers.storage.store import Committer, Misplaced, Page


class SqliteStore:
    """A book in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def parts(self) -> dict[str, str]:
        """The versions of its parts, for `status`."""
        return {"sqlite": apsw.sqlite_lib_version(), "apsw": apsw.apsw_version()}

    # --- The service. ---

    def committer(
        self,
        keys: CheckValues,
        requests_kept_ms: int,
        scoreboard: Scoreboard,
        reserve_bytes: int,
        patience_s: float,
    ) -> SqliteCommitter:
        """Open the book for the worker that writes, which has no server to wait for."""
        return SqliteCommitter(self._path, keys, requests_kept_ms, scoreboard, reserve_bytes)

    def reader(self, scoreboard: Scoreboard, committer: Committer | None) -> reading.BookReader:
        """Return a worker's reader; that of the worker that writes uses the same connection."""
        if isinstance(committer, SqliteCommitter):
            return reading.BookReader(scoreboard, committer.connect)
        return reading.BookReader(scoreboard, reading.ReadingConnection(self._path).connect)

    def pages_of_users(
        self, newest: int | None, size: int
    ) -> Iterator[list[tuple[int, str | None, int]]]:
        """Yield (id, username or None, saved_at_ms) of users, oldest first."""
        return reading.pages_of_users(self._path, newest, size)

    # --- Before it is used. ---

    def holds_a_book(self) -> bool:
        """Tell whether there is a database or a log of one, so that a key for it must exist."""
        return database.holds_a_book(self._path)

    def require_a_book(self) -> None:
        """Raise `DatabaseRefused` if there is no book yet, or its path cannot be used."""
        database.require_a_book(self._path)

    def check_can_be_made(self) -> None:
        """Raise a `StoreError` if no database can be there, or SQLite is not fit for it."""
        validation.check_sqlite()
        database.check_can_be_made(self._path)

    def check_is_a_book(self) -> None:
        """Raise `DatabaseRefused` for a file that is no password book."""
        database.check_is_a_book(self._path)

    def check(self, keyring: Keyring) -> None:
        """Open a book as the service would, and make it if there is none; raise what is wrong."""
        database.check_database(self._path, keyring)

    # --- Administration. ---

    def is_in_use(self) -> bool:
        """Tell whether a service has it open. Do not call it with the database open here."""
        return database.is_in_use(self._path)

    @contextlib.contextmanager
    def administered(self, keyring: Keyring) -> Iterator["SqliteBook"]:
        """Open a book to change it, while a service may be using it."""
        with database.open_to_administer(self._path, keyring) as opened:
            yield SqliteBook(opened)

    @contextlib.contextmanager
    def examined(self, keyring: Keyring) -> Iterator["SqliteBook"]:
        """Open a book to read it, and change nothing."""
        validation.check_sqlite()
        with database.opened_to_examine(self._path, keyring) as opened:
            yield SqliteBook(opened)

    def delete_removed(self, keyring: Keyring) -> None:
        """Delete all users of removed books under the service's lock."""
        try:
            store = database.Store(self._path, keyring.check_values, 0)
        except DatabaseRefused:
            if self.is_in_use():
                return  # a service, which does so itself
            raise
        try:
            with validation.refusals(self._path):
                while store.to_be_emptied():
                    store.commit([], [])
                    if store.log_pages > CHECKPOINT_PAGES:
                        store.checkpoint()
                        store.log_pages = 0
        finally:
            store.close()


class SqliteBook:
    """A book that is open for an administrator's command, through the models too."""

    user_columns = STORED_USER

    def __init__(self, opened: APSWDatabase) -> None:
        self._database = opened
        self._connection: apsw.Connection = opened.connection()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Begin a transaction that keeps other writers away, and commit it at the end."""
        with self._database.atomic("IMMEDIATE"):
            yield

    def applications(self) -> list[ApplicationRow]:
        """Return all applications, tombstones too, in the order in which they were added."""
        return reading.applications(self._connection)

    def sealing_key(self) -> int:
        """Return the number of the key to seal with; raise `Unavailable` if none is chosen."""
        return reading.sealing_key(self._connection)

    def pages(
        self, query: Query, *parameters: int, at_a_time: int, misplaced: Misplaced = walk.refuse
    ) -> Iterator[Page]:
        """Yield the rows of a query some at a time, with no transaction open in between."""
        try:
            yield from walk.in_order(
                self._connection,
                sql(query),
                parameters,
                at_a_time=at_a_time,
                misplaced=misplaced,
            )
        except apsw.Error as error:
            raise DatabaseError(str(error)) from error

    def change_rows(self, query: Query, parameters: Sequence[Sequence[Any]]) -> float:
        """Run a query with each of the parameters in one transaction, which writes something.

        Returns for how many seconds it waited for its turn.
        """
        began = time.monotonic()
        with self.changing():
            waited_s = time.monotonic() - began
            self._connection.executemany(sql(query), parameters)
            generations.touch(self._connection)
        return waited_s

    def hosts_lacking(self, key_id: int) -> list[str]:
        """Return no hosts: there is one, and its file is the one that the caller has read."""
        return []

    def damages(self) -> Iterator[str]:
        """Yield a sentence about each damage that SQLite finds in pages and indexes."""
        yield from validation.damages(self._database, thorough=True)
