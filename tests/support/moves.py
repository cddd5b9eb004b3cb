"""What tests of moves have in common: a book with something of everything, and who can use it."""

import sqlite3
from pathlib import Path

import psycopg

from pwserver.errors import DatabaseRefused
from tests.support.books import Saving, add_shop, open_store, save_three_versions, users
from workers.storage.movable import TABLES, Movable, StoredRow
from workers.storage.postgres import schema
from workers.storage.sqlite.moving import SqliteMovable
from workers.storage.sqlite.store import SqliteStore

USERS = 12
Rows = dict[str, list[StoredRow]]


def varied_book(path: Path) -> SqliteMovable:
    """Make a book of `USERS` users, with versions, labels, a request and an application."""
    store = open_store(path)
    store.commit(users(*range(100, 100 + USERS - 3)), [])
    save_three_versions(store)
    add_shop(store)
    labels, request_id = '["a \\u0000", "é"]', "once\0" * 3
    saving = Saving(username="çelik", user_id=7, book=7, fingerprint=-5, labels=labels)
    store.commit([], [saving._replace(request_id=request_id)])
    store.close()
    return SqliteMovable(path)


def quietly(what: str, done: int, total: int) -> None:
    """Show no progress."""


def rows_of(movable: Movable) -> Rows:
    """Return all rows of a book; this locks it as a move does."""
    with movable.source() as opened:
        return {table.name: list(opened.rows(table)) for table in TABLES}


def use(movable: Movable) -> None:
    """Open a book as everybody does who does not move it."""
    if isinstance(movable, SqliteMovable):
        SqliteStore(Path(movable.place)).check_is_a_book()
        return
    with schema.connected(movable.place) as connection:
        schema.check_tables(connection, schema.tables(connection))


def is_usable(movable: Movable) -> bool:
    """Tell whether anybody can use a book."""
    try:
        use(movable)
    except DatabaseRefused:
        return False
    return True


def change(movable: Movable, statement: str) -> None:
    """Run a statement on a database, past all checks and locks of services."""
    if isinstance(movable, SqliteMovable):
        file = sqlite3.connect(movable.place)
        with file:
            file.execute(statement)
        file.close()
        return
    with psycopg.connect(movable.place) as connection:
        connection.execute(statement.encode())
