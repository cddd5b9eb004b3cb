"""Databases as older releases left them, made by hand: no code of today is asked how."""

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.books import KEY, NOW_MS
from workers.book.models import COMMON_BOOK
from workers.book.vault import derive_key

_TABLES_OF_1 = """
CREATE TABLE "user" ("id" INTEGER NOT NULL PRIMARY KEY, "key_id" INTEGER NOT NULL,
    "sealed" BLOB NOT NULL, "saved_at_ms" INTEGER NOT NULL);
CREATE TABLE "key" ("id" INTEGER NOT NULL PRIMARY KEY, "check_value" BLOB NOT NULL);
PRAGMA application_id = 0x70775376;
PRAGMA user_version = 1;
"""

_TABLES_OF_2 = """
CREATE TABLE "user" ("id" INTEGER NOT NULL PRIMARY KEY, "key_id" INTEGER NOT NULL,
    "sealed" BLOB NOT NULL, "saved_at_ms" INTEGER NOT NULL, "book" INTEGER NOT NULL DEFAULT 0,
    "version" INTEGER NOT NULL DEFAULT 1, "username" TEXT, "labels" TEXT, "older" BLOB);
CREATE UNIQUE INDEX "user_name" ON "user" ("book", "username") WHERE ("username" IS NOT NULL);
CREATE TABLE "request" ("id" INTEGER NOT NULL PRIMARY KEY, "book" INTEGER NOT NULL,
    "request_id" TEXT NOT NULL, "fingerprint" INTEGER NOT NULL, "user_id" INTEGER NOT NULL,
    "version" INTEGER NOT NULL, "saved_at_ms" INTEGER NOT NULL);
CREATE UNIQUE INDEX "request_book_request_id" ON "request" ("book", "request_id");
CREATE TABLE "key" ("id" INTEGER NOT NULL PRIMARY KEY, "check_value" BLOB NOT NULL);
PRAGMA application_id = 0x70775376;
PRAGMA user_version = 2;
"""

_OLDER_OF_2 = struct.Struct(">QIQI")  # version, key_id, saved_at_ms, bytes that are sealed


class OldUser(NamedTuple):
    """A user of schema version 2, and its passwords from the oldest that is kept on."""

    id: int
    passwords: Sequence[str]
    username: str | None = None
    labels: str | None = None
    oldest: int = 1  # version that is kept
    book: int = COMMON_BOOK

    @property
    def version(self) -> int:
        """The newest version."""
        return self.oldest + len(self.passwords) - 1


def saved_at_ms(user_id: int, version: int = 1) -> int:
    """Return when a version of a user was saved: a second after the one before."""
    return NOW_MS + user_id % 100 + 1000 * (version - 1)


def make_version_1(path: Path, passwords: Mapping[int, str]) -> None:
    """Make a database of schema version 1, sealed with `KEY`; `passwords` has the users' ids."""
    connection = _made(path, _TABLES_OF_1)
    for id, password in passwords.items():
        user = (id, KEY.id, _sealed(id, password), saved_at_ms(id))
        connection.execute("INSERT INTO user VALUES (?, ?, ?, ?)", user)
    _close(connection)


def make_version_2(
    path: Path, users: Sequence[OldUser], requests: Mapping[str, tuple[int, int]]
) -> None:
    """Make a database of schema version 2, sealed with `KEY`.

    `requests` has the user and the version that each `request_id` made.
    """
    connection = _made(path, _TABLES_OF_2)
    for user in users:
        connection.execute("INSERT INTO user VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _row_of_2(user))
    for request_id, made in requests.items():
        request = (COMMON_BOOK, request_id, 0x5EED, *made, saved_at_ms(*made))
        connection.execute("INSERT INTO request VALUES (NULL, ?, ?, ?, ?, ?, ?)", request)
    _close(connection)


def _made(path: Path, tables: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")
    connection.executescript(tables)
    connection.execute("INSERT INTO key VALUES (?, ?)", (KEY.id, KEY.check_value))
    return connection


def _close(connection: sqlite3.Connection) -> None:
    connection.commit()
    connection.close()


def _row_of_2(user: OldUser) -> tuple[int | bytes | str | None, ...]:
    sealed = {
        version: _sealed(user.id, password, version, user.book)
        for version, password in enumerate(user.passwords, user.oldest)
    }
    newest = sealed.pop(user.version)
    older = b"".join(
        _OLDER_OF_2.pack(version, KEY.id, saved_at_ms(user.id, version), len(text)) + text
        for version, text in sealed.items()
    )
    time = saved_at_ms(user.id, user.version)
    secret = (user.id, KEY.id, newest, time, user.book, user.version)
    return (*secret, user.username, user.labels, older or None)


def _sealed(user_id: int, password: str, version: int = 1, book: int = COMMON_BOOK) -> bytes:
    """Return a password as it was sealed then: XAES-256-GCM, bound to its place.

    What is bound to user and key alone is a first version in the common book.
    """
    place = struct.pack(">QI", user_id, KEY.id)
    if version != 1 or book != COMMON_BOOK:
        place += struct.pack(">IQ", book, version)
    nonce = struct.pack(">QQQ", user_id, version, 0)
    subkey = AESGCM(derive_key(KEY.secret, nonce[:12]))
    return nonce + subkey.encrypt(nonce[12:], password.encode(), place)
