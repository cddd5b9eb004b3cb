"""A book read back with the key: what each user has, and what is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol

import apsw

from tests.support.book_model import User
from workers.book import rows
from workers.book.history import unpack
from workers.book.models import UserRow, stored_user
from workers.book.vault import Vault

_COLUMNS = ", ".join(
    f"CAST({name} AS BLOB)" if name in ("username", "labels") else name for name in UserRow._fields
)
"""What `stored_user` takes, in plain SQL: the models need not have a database."""


class Book(Protocol):
    """A book in which nothing changes while it is read, whatever engine has it."""

    def damage(self) -> Iterator[str]:
        """Yield what the engine finds wrong with it."""
        ...

    def number_of_users(self) -> int:
        """Count the rows."""
        ...

    def books(self) -> dict[str, int]:
        """Return the number of the book of each application, by its name."""
        ...

    def users(self, *, named: bool, after: int = -1) -> Iterator[UserRow]:
        """Yield users with or without names, in the order of their ids, those beyond one."""
        ...


class SqliteBook:
    """A book in a file of SQLite, over an open connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def damage(self) -> Iterator[str]:
        """Yield what a quick check finds."""
        yield from damage(self._connection, "quick_check(3)")

    def number_of_users(self) -> int:
        """Count the rows; a book that was only just created has none."""
        has_table = "SELECT count(*) FROM sqlite_schema WHERE name = 'user'"
        return self._number("SELECT count(*) FROM user") if self._number(has_table) else 0

    def books(self) -> dict[str, int]:
        """Return the number of the book of each application, by its name."""
        return dict(self._connection.execute("SELECT name, book FROM application"))

    def users(self, *, named: bool, after: int = -1) -> Iterator[UserRow]:
        """Yield users with or without names, in the order of their ids, those beyond one."""
        kind = "IS NOT NULL" if named else "IS NULL"
        yield from user_rows(self._connection, f"username {kind} AND id > ?", after)

    def _number(self, query: str) -> int:
        number = self._connection.execute(query).get
        assert isinstance(number, int)
        return number


def damage(connection: apsw.Connection, check: str) -> Iterator[str]:
    """Yield what a check of SQLite's finds wrong with the file."""
    for (said,) in connection.execute(f"PRAGMA {check}"):
        if said != "ok":
            yield f"{check}: {said}"


def user_rows(
    connection: apsw.Connection, condition: str = "1", *parameters: int
) -> Iterator[UserRow]:
    """Yield users as they are stored, in the order of their ids."""
    query = f"SELECT {_COLUMNS} FROM user WHERE {condition} ORDER BY id"
    yield from map(stored_user, connection.execute(query, parameters))


def opened_user(vault: Vault, user: UserRow) -> User:
    """Return what a user has; raise `DatabaseRefused` where any of it does not open."""
    numbers = [*(each.version for each in unpack(user.older)), user.version]
    versions = {number: rows.open_version(vault, user, number) for number in numbers}
    return User(
        {number: opened[0] for number, opened in versions.items() if opened is not None},
        tuple(json.loads(user.labels or "[]")),
    )
