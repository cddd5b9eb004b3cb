"""A book in a file, without a service around it: what writes it, what reads it, and who waits."""

import multiprocessing
import sqlite3
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pwserver.handoff import Scoreboard
from workers import history
from workers.batches import Awaited
from workers.database import Store
from workers.history import OlderVersion
from workers.models import COMMON_BOOK, Row
from workers.vault import MasterKey, derive_key
from workers.writing import SAVE

KEY = MasterKey(1, b"k" * 32)
OTHER_KEY = MasterKey(1, b"o" * 32)
REQUESTS_KEPT_MS = 86_400_000
NOW_MS = 1_770_000_000_000  # early in 2026


def open_store(path: Path, key: MasterKey = KEY, requests_kept_ms: int = REQUESTS_KEPT_MS) -> Store:
    """Open a database as the writer does."""
    return Store(path, key.id, key.check_value, requests_kept_ms)


def users(*ids: int, book: int = COMMON_BOOK) -> list[Row]:
    """Return users without a name, to be inserted."""
    return [(id, book, 1, b"sealed %d" % id, id % 10**6 * 1000) for id in ids]


class Saving(NamedTuple):
    """A save as the writer gets it; what a test does not care about has a value already."""

    kind: int = SAVE
    book: int = COMMON_BOOK
    username: str | None = None
    user_id: int = 0
    replaced: int = 0
    key_id: int = 1
    sealed: bytes = b"sealed"
    saved_at_ms: int = NOW_MS
    labels: str | None = None
    older: bytes | None = None
    request_id: str | None = None
    fingerprint: int = 7


def next_version(store: Store, user_id: int, kept: int = 10, **more: Any) -> Saving:
    """Return a save of the next version of a user, planned as a worker plans it."""
    found = store.connection.execute(
        "SELECT version, key_id, saved_at_ms, sealed, older, username FROM user WHERE id = ?",
        (user_id,),
    ).fetchone()
    assert found is not None
    *newest, older, username = found
    replaced = OlderVersion(*newest)
    saving = Saving(username=username, user_id=user_id, replaced=replaced.version)
    return saving._replace(older=history.add(older, replaced, kept), **more)


def new_scoreboard() -> Scoreboard:
    """Return a scoreboard on which the writer has noted that it has opened a database."""
    board = Scoreboard(multiprocessing.get_context("forkserver"), 1)
    board.opened()
    return board


def contents(folder: Path) -> dict[str, bytes]:
    """Return all bytes in a folder but the index of a log, which every reader writes to."""
    files = [path for path in folder.iterdir() if not path.name.endswith("-shm")]
    return {path.name: path.read_bytes() for path in files if path.stat().st_size > 0}


def rows_of(store: Store, table: str) -> list[tuple[Any, ...]]:
    """Return everything in a table, in the order of its key."""
    return store.connection.execute(f'SELECT * FROM "{table}" ORDER BY 1, 2').fetchall()


_TABLES_OF_1 = """
CREATE TABLE "user" ("id" INTEGER NOT NULL PRIMARY KEY, "key_id" INTEGER NOT NULL,
    "sealed" BLOB NOT NULL, "saved_at_ms" INTEGER NOT NULL);
CREATE TABLE "key" ("id" INTEGER NOT NULL PRIMARY KEY, "check_value" BLOB NOT NULL);
PRAGMA application_id = 0x70775376;
PRAGMA user_version = 1;
"""


def make_version_1(path: Path, passwords: Mapping[int, str]) -> None:
    """Make a database of schema version 1, sealed with `KEY`, as the first release left it.

    `passwords` has the users' ids; each was saved so many milliseconds after `NOW_MS`, modulo 100.
    """
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript(_TABLES_OF_1)
        connection.execute("INSERT INTO key VALUES (?, ?)", (KEY.id, KEY.check_value))
        for id, password in passwords.items():
            user = (id, KEY.id, _sealed_by_1(id, password), NOW_MS + id % 100)
            connection.execute("INSERT INTO user VALUES (?, ?, ?, ?)", user)
    connection.execute("PRAGMA journal_mode = wal")
    connection.close()


def _sealed_by_1(user_id: int, password: str) -> bytes:
    """Return a password as the first release sealed it: XAES-256-GCM, bound to user and key."""
    nonce = user_id.to_bytes(24, "big")
    owner = user_id.to_bytes(8, "big") + KEY.id.to_bytes(4, "big")
    subkey = AESGCM(derive_key(KEY.secret, nonce[:12]))
    return nonce + subkey.encrypt(nonce[12:], password.encode(), owner)


class Client:
    """Who waits for replies, as a connection does."""

    def __init__(self, book: int = COMMON_BOOK) -> None:
        self.awaited: deque[Awaited] = deque()
        self.book = book

    def settle(self) -> None:
        """Do nothing: the tests look at the replies themselves."""
