"""What both web applications and the baseline have in common, and how a database gets its users.

The applications use pwserver's settings of SQLite that decide what a commit costs: a write-ahead
log, `synchronous=FULL`, pages and cache of the same size, a checkpoint at as many pages. A thread
or process keeps its connection, passwords are not sealed, and nobody is refused for waiting too
long. That favours them; but each connection has a cache, so with a big database a thread pool takes
the memory of 40 of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from peewee import DateTimeField, Model, SqliteDatabase, TextField

from pwserver.limits import CHECKPOINT_PAGES
from workers.storage.sqlite.database import PRAGMAS

DATABASE_VARIABLE = "WEB_BOOK_DATABASE"
"""The environment variable that tells an application its file: servers of applications import them,
and pass no arguments on."""

LOCK_TIMEOUT_S = 3600
"""Longer than any run: a save waits for its turn rather than fail."""

SETTINGS: Mapping[str, object] = {
    "page_size": PRAGMAS["page_size"],
    "journal_mode": "wal",
    "synchronous": PRAGMAS["synchronous"],
    "wal_autocheckpoint": CHECKPOINT_PAGES,
    "cache_size": PRAGMAS["cache_size"],
}

_FILL = """
    WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?)
    INSERT INTO user (password, saved_at) SELECT printf('%08d-Tr0ub4dor&3', n), ? FROM numbers
"""

database = SqliteDatabase(None)


class User(Model):
    """One saved password makes one user."""

    password = TextField()
    saved_at = DateTimeField(default=datetime.now)

    class Meta:
        """The table is `user`, in the database that was opened."""

        database = database


def use_named() -> None:
    """Take the file that the environment names; each thread opens it when it first asks."""
    database.init(os.environ[DATABASE_VARIABLE], pragmas=SETTINGS, timeout=LOCK_TIMEOUT_S)


def make(path: Path, users: int, settings: Mapping[str, object] = SETTINGS) -> None:
    """Make a database with so many users in it."""
    database.init(str(path), pragmas=settings)
    with database.connection_context():
        database.create_tables([User])
        if users:
            database.execute_sql(_FILL, (users, datetime.now()))  # type: ignore[no-untyped-call]
