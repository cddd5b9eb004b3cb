"""Fills a book with named users without a service, which would take an hour over the wire.

The rows are those that the service would make: its own modules make the ids, seal the passwords
and open the database, and names and passwords are those of `book.py`, in its scattered order, so
that every load of the book can be put on them. A user takes about 8 microseconds. Nothing is synced
before the end, and the index of names is made at the end, because in scattered order it would be
written page by page, at random.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
from peewee import SchemaManager

from benchmarks.client.book import name_of, password_of, scattered
from workers.book.keyring import read_keyring
from workers.book.models import USER, Application, IdClock, User, UserRow, sql
from workers.book.rows import seal
from workers.book.vault import Vault
from workers.storage.sqlite.database import open_to_administer

TRANSACTION_USERS = 100_000
SORTING_KIB = 256 * 1024
"""Memory for the rows of an index while they are put in order."""


def fill(database: Path, key_file: Path, application: str, users: int) -> None:
    """Save so many users in the book of an application, in a database that no service has open."""
    keyring = read_keyring(key_file)
    with open_to_administer(database, keyring) as opened:
        book = Application.get(Application.name == application).book
        insert_users(opened.connection(), Vault(keyring), book, users)
    _sync(database)


def insert_users(connection: apsw.Connection, vault: Vault, book: int, users: int) -> None:
    """Put so many users into a book of the database that peewee's models are bound to."""
    connection.pragma("synchronous", "off")
    connection.pragma("cache_size", -SORTING_KIB)
    insert = sql(User.insert_many([(0,) * len(USER)], fields=USER))
    schema = SchemaManager(User)
    schema.drop_indexes()
    rows = _rows(vault, book, users)
    while batch := list(itertools.islice(rows, TRANSACTION_USERS)):
        with connection:
            connection.executemany(insert, batch)
    schema.create_indexes()


def _rows(vault: Vault, book: int, users: int) -> Iterator[UserRow]:
    """Yield the rows in the order of their ids, which end now: those made from now on are newer."""
    now_ns = time.time_ns()
    clock = IdClock(0)
    clock.advance(now_ns - users * 1000)
    empty = UserRow(0, 1, vault.key_id, b"", now_ns // 1_000_000, book, None, None, None)
    for position in range(users):
        user = scattered(position, users)
        yield seal(
            vault, password_of(user), empty._replace(id=clock.next(), username=name_of(user))
        )


def _sync(database: Path) -> None:
    """Have all of it on the disk, so that nothing that is measured waits for it."""
    file = os.open(database, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
