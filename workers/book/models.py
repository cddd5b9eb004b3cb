"""The peewee models: what a row is. Nothing here opens a database or knows who asks.

A user's `id` is made by the worker that saves it (see `IdClock`), because the sealed password is
bound to it before it leaves the worker. Ids grow with time, so new rows always go to the end of the
table, and the newest users are those with the greatest ids. A user saved without a name has none
here: its generated name is another way to write the id (`names`), and at ten million users
an index of random names would cost more than everything else in a save.
"""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from peewee import (
    SQL,
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    DatabaseProxy,
    IntegerField,
    Model,
    Query,
    TextField,
)

SCHEMA_VERSION = 4

COMMON_BOOK = 0
"""The book of names of all who have no token. An application's own has the application's id."""

Row = tuple[int, int, int, bytes, int]
"""A user saved without a name, as the database takes it: id, book, key_id, sealed, saved_at_ms."""

database: DatabaseProxy = DatabaseProxy()


class User(Model):
    """A user and the newest version of its password.

    key_id        which key all of it is sealed with, the older versions too
    sealed        nonce, ciphertext and tag, as `vault` makes them
    saved_at_ms   when it arrived, in milliseconds since 1970 (UTC)
    book          whose book of names it is in
    version       1 and up, one more with each save
    username      the name it was given, or NULL
    labels        a JSON list of texts, or NULL
    older         the versions before that are kept, as `history` packs them, or NULL
    """

    id = BigIntegerField(primary_key=True)
    key_id = IntegerField()
    sealed = BlobField()
    saved_at_ms = BigIntegerField()
    book = IntegerField(constraints=[SQL("DEFAULT 0")])
    version = IntegerField(constraints=[SQL("DEFAULT 1")])
    username = TextField(null=True)
    labels = TextField(null=True)
    older = BlobField(null=True)

    class Meta:
        """The table is `user`, in the database that the process has opened."""

        database = database
        legacy_table_names = False


User.add_index(
    User.index(User.book, User.username, unique=True, name="user_name").where(
        User.username.is_null(False)
    )
)


User.add_index(
    # Of the common book there is none: its ids are found in the table, and a save costs no more.
    # That the index is in the order of the ids as well is so of every index.
    User.index(User.book, name="user_generated").where(
        User.username.is_null() & (User.book != SQL("0"))
    )
)


class UserRow(NamedTuple):
    """A user as it stands in the database, or is to stand there."""

    id: int
    version: int
    key_id: int
    sealed: bytes
    saved_at_ms: int
    book: int
    older: bytes | None
    username: str | None
    labels: str | None


USER = tuple(getattr(User, name) for name in UserRow._fields)
"""What to select for a `UserRow`."""

STORED_USER = (*USER[:-2], User.username.cast("BLOB"), User.labels.cast("BLOB"))
"""What to select for `stored_user`."""


def stored_user(columns: Sequence[Any]) -> UserRow:
    """Return a user whatever was done to its row: a text that is none any more cannot be encoded.

    For who goes through all rows and must not stumble over one.
    """
    username, labels = columns[-2:]
    return UserRow(*columns)._replace(username=_text(username), labels=_text(labels))


def _text(stored: bytes | None) -> str | None:
    return None if stored is None else stored.decode(errors="surrogateescape")


class Request(Model):
    """A save that carried a `request_id`, what it asked for, and which version it made.

    Ids grow, so the oldest requests are those with the least. `fingerprint` is a short keyed hash.
    """

    id = AutoField()
    book = IntegerField()
    request_id = TextField()
    fingerprint = BigIntegerField()
    user_id = BigIntegerField()
    version = IntegerField()
    saved_at_ms = BigIntegerField()

    class Meta:
        """The table is `request`."""

        database = database
        legacy_table_names = False
        indexes = ((("book", "request_id"), True),)


class Key(Model):
    """A key that rows may be sealed with: not the key, but a value that only it produces.

    The one of which `seals` is true is the one that passwords are sealed with from now on.
    """

    id = IntegerField(primary_key=True)
    check_value = BlobField()
    seals = BooleanField(constraints=[SQL("DEFAULT 1")])

    class Meta:
        """The table is `key`."""

        database = database
        legacy_table_names = False


class Application(Model):
    """An application, and what it may do.

    id                  also the number of its own book
    book                the one it uses: its own, or the common one
    may                 its rights, between spaces
    token_hash          SHA-256 of its token, or NULL once it was revoked
    previous_hash       of the token before, or NULL
    previous_until_ms   how long that one is good
    seal                a keyed hash of all the rest: who can write to the database, and has no key,
                        can give nobody a right
    """

    id = AutoField()
    name = TextField(unique=True)
    book = IntegerField()
    may = TextField()
    created_at_ms = BigIntegerField()
    token_hash = BlobField(null=True)
    previous_hash = BlobField(null=True)
    previous_until_ms = BigIntegerField()
    seal = BlobField()

    class Meta:
        """The table is `application`."""

        database = database
        legacy_table_names = False


NO_GENERATION = bytes(16)
"""The `previous` of a database of which nothing is known to be in the file as yet."""


class Generation(Model):
    """Which log belongs to which database: `generations` says how. It has one row."""

    id = IntegerField(primary_key=True)
    previous = BlobField()
    current = BlobField()

    class Meta:
        """The table is `generation`."""

        database = database
        legacy_table_names = False


class ApplicationRow(NamedTuple):
    """An application as it stands in the database."""

    id: int
    name: str
    book: int
    may: str
    created_at_ms: int
    token_hash: bytes | None
    previous_hash: bytes | None
    previous_until_ms: int
    seal: bytes


APPLICATION = tuple(getattr(Application, name) for name in ApplicationRow._fields)
"""What to select for an `ApplicationRow`."""

TABLES = (User, Request, Key, Application, Generation)


def sql(query: Query) -> str:
    """Return the text of a query; its parameters are the places of the constants in it.

    Taken once and run many times: peewee takes longer to make the text than SQLite to run it.
    """
    return str(query.sql()[0])


def time_saved(saved_at_ms: int) -> str:
    """Return a row's time as ISO 8601 in UTC, to the second."""
    return _iso(saved_at_ms // 1000)


@functools.lru_cache(maxsize=1024)  # users saved in one second are listed together
def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19] + "Z"


class IdClock:
    """Makes ids that grow and that no two workers share.

    The high 52 bits are microseconds since 1970, or one more than the last where the clock stood
    still or went back; the low 11 are the worker's serial number, which differs for every worker
    that the listener starts. Good until the year 2112.
    """

    SERIAL_BITS = 11

    def __init__(self, serial: int) -> None:
        self._serial = serial % (1 << self.SERIAL_BITS)
        self._microseconds = 0

    def advance(self, now_ns: int) -> None:
        """Take the time, in nanoseconds since 1970: once a turn, not once a row."""
        self._microseconds = max(self._microseconds, now_ns // 1000)

    def after(self, user_id: int) -> None:
        """Make sure that the next id is greater than one already in the database."""
        self._microseconds = max(self._microseconds, (user_id >> self.SERIAL_BITS) + 1)

    def next(self) -> int:
        """Return a new id, 63 bits at the most."""
        return self.take(1)[0]

    def take(self, number: int) -> range:
        """Return so many new ids, in their order."""
        first = self._microseconds << self.SERIAL_BITS | self._serial
        self._microseconds += number
        step = 1 << self.SERIAL_BITS
        return range(first, first + number * step, step)
