"""A book in a file, without a service: helpers that write it, read it and wait for replies."""

import shutil
import sqlite3
import struct
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from pwserver.ipc import Scoreboard
from pwserver.secret import Secret
from pwserver.wire.messages import RIGHTS
from workers.auth.applications import ANYBODY, KNOWN, Caller
from workers.auth.peers import Peer
from workers.auth.throttle import Limit
from workers.book import history
from workers.book.history import OlderVersion
from workers.book.keyring import Keyring, MasterKey
from workers.book.models import COMMON_BOOK, SCHEMA_VERSION, ApplicationRow, Row, UserRow
from workers.serving.awaited import Awaited
from workers.storage.operations import DONE, SAVE, nonce
from workers.storage.sqlite.database import Store

KEY = MasterKey(1, Secret(b"k" * 32))
OTHER_KEY = MasterKey(1, Secret(b"o" * 32))
NEXT_KEY = MasterKey(2, Secret(b"n" * 32))
REQUESTS_KEPT_MS = 86_400_000
NOW_MS = 1_770_000_000_000  # early in 2026


def keyring_of(*keys: MasterKey) -> Keyring:
    """Return a keyring with some keys, and always the same integrity key."""
    return Keyring({key.id: key for key in keys}, Secret(b"i" * 32))


KEYRING = keyring_of(KEY)
BOTH_KEYS = keyring_of(KEY, NEXT_KEY)


def open_store(
    path: Path, keyring: Keyring = KEYRING, requests_kept_ms: int = REQUESTS_KEPT_MS
) -> Store:
    """Open a database as the writer does."""
    return Store(path, keyring.check_values, requests_kept_ms)


def take_key(store: Store, key_id: int) -> None:
    """Add a key to a database, as a rotation does, so that it accepts what the key seals."""
    row = (key_id, b"check value %d" % key_id)
    store.connection.execute("INSERT INTO key (id, check_value, seals) VALUES (?, ?, FALSE)", row)


def users(*ids: int, book: int = COMMON_BOOK) -> list[Row]:
    """Return rows of users without a name."""
    return [(id, book, 1, b"sealed %d" % id, id % 10**6 * 1000) for id in ids]


class Saving(NamedTuple):
    """A save as the writer gets it, with a default for every field."""

    kind: int = SAVE
    key_id: int = 1
    book: int = COMMON_BOOK
    username: str | None = None
    user_id: int = 0
    replaced: bytes | None = None
    version: int = 1
    sealed: bytes = b"sealed"
    saved_at_ms: int = NOW_MS
    labels: str | None = None
    older: bytes | None = None
    request_id: str | None = None
    fingerprint: int = 7
    users_max: int = 0


def row_of(store: Store, user_id: int) -> UserRow:
    """Return the row of a user that must exist."""
    columns = ", ".join(UserRow._fields)
    select = f'SELECT {columns} FROM "user" WHERE id = ?'
    found = store.connection.execute(select, (user_id,)).fetchone()
    assert found is not None
    return UserRow(*found)


def next_version(store: Store, user_id: int, kept: int = 10, **more: Any) -> Saving:
    """Return a save of the next version of a user, planned as a worker plans it."""
    user = row_of(store, user_id)
    newest = OlderVersion(user.version, user.key_id, user.saved_at_ms, user.sealed)
    saving = Saving(
        username=user.username,
        user_id=user_id,
        replaced=nonce(user.sealed),
        version=user.version + 1,
        sealed=b"sealed as %d" % (user.version + 1),
        labels=user.labels,
        older=history.add(user.older, newest, kept),
    )
    return saving._replace(**more)


def save_often(store: Store, user_id: int, times: int) -> None:
    """Save a user `times` times; `sealed` of each version names the version and the user."""
    for version in range(1, times + 1):
        sealed = b"%d of %d" % (version, user_id)
        saving = Saving(username=f"u{user_id}", user_id=user_id, sealed=sealed)
        if version > 1:
            saving = next_version(store, user_id, sealed=sealed)
        assert store.commit([], [saving]) == [DONE]


def save_three_versions(store: Store) -> None:
    """Save three versions of a user's password, a second apart, and two of another user's."""
    store.commit([], [Saving(username="alice", user_id=5, sealed=b"v1")])
    for number in (2, 3):
        at_ms = NOW_MS + (number - 1) * 1000
        saving = next_version(store, 5, saved_at_ms=at_ms, sealed=b"v%d" % number)
        store.commit([], [saving])
    save_often(store, 6, 2)


def add_shop(store: Store) -> None:
    """Insert an application with number 7 and an invalid seal."""
    put_application(store, ApplicationRow(7, "shop", 7, "get save", 1000, b"\x01", seal=b"\x05"))


def put_application(store: Store, row: ApplicationRow) -> None:
    """Insert an application as it is, with the seal that it has."""
    columns = ", ".join("?" * len(row))
    store.connection.execute(f"INSERT INTO application VALUES ({columns})", row)


def make_book(path: Path, rows: list[Row], schema_version: int = SCHEMA_VERSION) -> None:
    """Make a database with some users in it, and close it."""
    store = open_store(path)
    store.commit(rows, [])
    store.close()
    with open(path, "r+b") as file:
        file.seek(60)
        file.write(struct.pack(">I", schema_version))


def crash(path: Path, statement: str) -> None:
    """Run a statement on a database and leave its log in place, as a killed process does."""
    crashing = path.with_name("crashing.db")
    shutil.move(path, crashing)
    connection = sqlite3.connect(crashing)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute(statement)
    connection.commit()
    for ending in ("", "-wal"):
        shutil.copy(f"{crashing}{ending}", f"{path}{ending}")
    connection.close()
    crashing.unlink()


def new_scoreboard() -> Scoreboard:
    """Return a scoreboard that says that the writer has opened a database."""
    board = Scoreboard(1)
    board.opened()
    return board


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder that are not empty, but not `-shm`, which readers write to."""
    files = [path for path in folder.iterdir() if not path.name.endswith("-shm")]
    return {path.name: path.read_bytes() for path in files if path.stat().st_size > 0}


def rows_of(store: Store, table: str) -> list[tuple[Any, ...]]:
    """Return all rows of a table, in the order of its key."""
    return store.connection.execute(f'SELECT * FROM "{table}" ORDER BY 1, 2').fetchall()


def everything(store: Store) -> list[list[tuple[Any, ...]]]:
    """Return all rows of users and requests."""
    return [rows_of(store, table) for table in ("user", "request")]


class SomePeer(Peer):
    """A peer without a connection: an application with all rights in a book."""

    def __init__(self, book: int, application: str | None) -> None:
        rights = frozenset((ANYBODY, KNOWN, *RIGHTS))
        self.caller = Caller(application, book, list(RIGHTS), rights)
        self.wrong_tokens = 0
        self.exchange = None

    @property
    def address(self) -> str:
        """Some address."""
        return "127.0.0.1:50000"

    @property
    def authenticating(self) -> Limit:
        """No limit on wrong tokens."""
        return Limit([])

    def verifying(self, name: str) -> Limit:
        """No limit on wrong passwords."""
        return Limit([])


class Client:
    """A waiter for replies, as a connection is."""

    def __init__(self, book: int = COMMON_BOOK, application: str | None = "tests") -> None:
        self.awaited: deque[Awaited] = deque()
        self.reading = 0
        self.peer: Peer = SomePeer(book, application)

    def end(self) -> None:
        """Do nothing: there is no connection to close."""

    def settle(self) -> None:
        """Do nothing: the tests check the replies themselves."""
