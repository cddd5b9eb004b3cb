"""The peewee models: the tables and their rows. Nothing here opens a database.

The worker that saves a user makes its `id` (see `IdClock`), because the sealed password is bound to
the id before it leaves the worker. Ids grow with time, so new rows go to the end of the table, and
the newest users have the greatest ids. A user saved without a name has no name in its row: its
generated name is another way to write the id (`names`). At ten million users an index of random
names would cost more than everything else in a save.
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

SCHEMA_VERSION = 5

COMMON_BOOK = 0
"""The book of all clients without a token. An application's own book has the application's id."""

Row = tuple[int, int, int, bytes, int]
"""A user saved without a name, in the order of INSERT: id, book, key_id, sealed, saved_at_ms."""

database: DatabaseProxy = DatabaseProxy()


class User(Model):
    """A user and the newest version of its password.

    key_id        the key that it is sealed with, the older versions too
    sealed        nonce, ciphertext and tag, as `vault` makes them
    saved_at_ms   when it arrived, in milliseconds since 1970 (UTC)
    book          the book that it belongs to
    version       1 and up, one more with each save
    username      the name it was saved under, or NULL
    labels        a JSON list of texts, or NULL
    older         the older versions that are kept, as `history` packs them, or NULL
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
        """The table is `user`, in the process's open database."""

        database = database
        legacy_table_names = False


User.add_index(
    User.index(User.book, User.username, unique=True, name="user_name").where(
        User.username.is_null(False)
    )
)


User.add_index(
    # Rows of the common book are not in this index, so their saves cost no more: their ids are
    # found in the table. Like every index, it is sorted by id within a book.
    User.index(User.book, name="user_generated").where(
        User.username.is_null() & (User.book != SQL("0"))
    )
)


class UserRow(NamedTuple):
    """A user's row, as it is in the database or is to be written."""

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
    """Return a user's row, whose texts may be bytes, even if they were altered to invalid UTF-8.

    Such a text becomes one that cannot be encoded. For callers that walk through all rows and must
    not fail at one.
    """
    username, labels = columns[-2:]
    if username is None and labels is None:
        return UserRow(*columns)
    return UserRow(*(*columns[:-2], _text(username), _text(labels)))


def _text(stored: bytes | str | None) -> str | None:
    return stored.decode(errors="surrogateescape") if isinstance(stored, bytes) else stored


class Request(Model):
    """A save that carried a `request_id`, its fingerprint, and the version that it made.

    Ids grow, so the oldest requests have the least ids. `fingerprint` is a keyed hash of the
    request's content, `user_id` and `version`, so that nobody without the key makes a row, or
    changes one, that a request is answered from.
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
    """A key that rows may be sealed with: its id and check value, not the key itself.

    Passwords are sealed with the key of which `seals` is true.
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
    book                the book that it uses: its own, or the common one
    may                 its rights, separated by spaces
    token_hash          SHA-256 of its token, or NULL after it was revoked
    previous_hash       SHA-256 of its previous token, or NULL
    verifier            what checks a proof of its token (`wire.scram`), or NULL
    previous_verifier   the same of its previous token, or NULL
    certificate         SHA-256 of the public key of its client certificate, or NULL
    previous_certificate  the same of its previous certificate, or NULL
    previous_until_ms   until when the previous token and certificate are valid
    expires_ms          until when the token and the certificate are valid; 0: for ever
    lifetime_ms         how long a new token is valid; 0: for ever
    networks            where it may come from, separated by spaces; empty: from anywhere
    users_max           the most users in its own book; 0: any number
    saves_per_s         the most saves a second; 0: any number
    connections_max     the most connections at once; 0: any number
    revision            one more with each change of any application (see `auth.revisions`)
    seal                a keyed hash of all other columns, so that somebody who can write to the
                        database, but has no key, cannot grant rights
    """

    id = AutoField()
    name = TextField(unique=True)
    book = IntegerField()
    may = TextField()
    created_at_ms = BigIntegerField()
    token_hash = BlobField(null=True)
    previous_hash = BlobField(null=True)
    verifier = BlobField(null=True)
    previous_verifier = BlobField(null=True)
    certificate = BlobField(null=True)
    previous_certificate = BlobField(null=True)
    previous_until_ms = BigIntegerField()
    expires_ms = BigIntegerField()
    lifetime_ms = BigIntegerField()
    networks = TextField()
    users_max = BigIntegerField()
    saves_per_s = IntegerField()
    connections_max = IntegerField()
    revision = IntegerField()
    seal = BlobField()

    class Meta:
        """The table is `application`."""

        database = database
        legacy_table_names = False


NO_GENERATION = bytes(16)
"""The `previous` of a new database, of which no checkpoint was synced yet."""


class Generation(Model):
    """One row with two numbers that tie a log to its database; see `storage.generations`."""

    id = IntegerField(primary_key=True)
    previous = BlobField()
    current = BlobField()

    class Meta:
        """The table is `generation`."""

        database = database
        legacy_table_names = False


class ApplicationRow(NamedTuple):
    """An application's row."""

    id: int
    name: str
    book: int
    may: str
    created_at_ms: int
    token_hash: bytes | None
    previous_hash: bytes | None = None
    verifier: bytes | None = None
    previous_verifier: bytes | None = None
    certificate: bytes | None = None
    previous_certificate: bytes | None = None
    previous_until_ms: int = 0
    expires_ms: int = 0
    lifetime_ms: int = 0
    networks: str = ""
    users_max: int = 0
    saves_per_s: int = 0
    connections_max: int = 0
    revision: int = 1
    seal: bytes = b""


APPLICATION = tuple(getattr(Application, name) for name in ApplicationRow._fields)
"""What to select for an `ApplicationRow`."""

_TEXTS = [place for place, column in enumerate(APPLICATION) if isinstance(column, TextField)]

STORED_APPLICATION = tuple(
    column.cast("INTEGER" if isinstance(column, IntegerField) else "BLOB") for column in APPLICATION
)
"""What to select for `stored_application`."""


def stored_application(columns: Sequence[Any]) -> ApplicationRow:
    """Return an application's row, even if somebody has altered a value to something else.

    Then its seal is wrong, and it must not keep others from being read.
    """
    values = list(columns)
    for place in _TEXTS:
        values[place] = _text(values[place]) or ""
    return ApplicationRow(*values)


TABLES = (User, Request, Key, Application, Generation)


def has_name(user: UserRow, book: int, name: str, user_id: int | None) -> bool:
    """Tell whether a user has a name in a book; `user_id` is its id if the name is generated.

    Takes as long whether it has: `&`, not `and`, makes every comparison, whatever the others gave.
    """
    if user_id is None:
        is_named = (user.username or "") == name
    else:
        is_named = (user.username is None) & (user.id == user_id)
    return is_named & (user.book == book)


def sql(query: Query) -> str:
    """Return the SQL text of a query, with a parameter for each constant in it.

    Call it once and run the text many times: peewee takes longer to build it than SQLite to run it.
    """
    return str(query.sql()[0])


def time_saved(saved_at_ms: int) -> str:
    """Return a row's time as ISO 8601 in UTC, to the second."""
    return _iso(saved_at_ms // 1000)


@functools.lru_cache(maxsize=1024)  # users saved in the same second are often listed together
def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19] + "Z"


class IdClock:
    """Makes ids that grow and that no two workers share.

    The high 52 bits are microseconds since 1970, or one more than in the last id if the clock has
    not advanced. The low 11 bits are the worker's serial number, which is different for every
    worker that the listener starts. This works until the year 2112.
    """

    SERIAL_BITS = 11

    def __init__(self, serial: int) -> None:
        self._serial = serial % (1 << self.SERIAL_BITS)
        self._microseconds = 0

    def advance(self, now_ns: int) -> None:
        """Set the time, in nanoseconds since 1970. Called once a turn, not once a row."""
        self._microseconds = max(self._microseconds, now_ns // 1000)

    def after(self, user_id: int) -> None:
        """Make the next id greater than one that is already in the database."""
        self._microseconds = max(self._microseconds, (user_id >> self.SERIAL_BITS) + 1)

    def next(self) -> int:
        """Return a new id of at most 63 bits."""
        return self.take(1)[0]

    def take(self, number: int) -> range:
        """Return a number of new ids in ascending order."""
        first = self._microseconds << self.SERIAL_BITS | self._serial
        self._microseconds += number
        step = 1 << self.SERIAL_BITS
        return range(first, first + number * step, step)
