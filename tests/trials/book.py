"""A book's file read back with the key: what each user has, and what is damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator

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
