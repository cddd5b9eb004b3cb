"""The peewee models: what a row is. Nothing here opens a database or knows who asks.

A user's `id` is made by the worker that saves it (see `IdClock`), because the sealed password is
bound to it before it leaves the worker. Ids grow with time, so new rows always go to the end of the
table, and the newest users are those with the greatest ids. Generated usernames are another way to
write the id and need neither a column nor an index: at ten million users an index of random names
would cost more than everything else in a save.
"""

import functools
from datetime import UTC, datetime

from peewee import BigIntegerField, BlobField, DatabaseProxy, IntegerField, Model

SCHEMA_VERSION = 1

Row = tuple[int, int, bytes, int]
"""A user as the database takes it: id, key_id, sealed, saved_at_ms."""

database: DatabaseProxy = DatabaseProxy()

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter looks like a digit
_NAME_DIGITS = 13  # 5 bits each: enough for 63


class User(Model):
    """One saved password.

    key_id        which key it is sealed with
    sealed        nonce, ciphertext and tag, as `vault` makes them
    saved_at_ms   when it arrived, in milliseconds since 1970 (UTC)
    """

    id = BigIntegerField(primary_key=True)
    key_id = IntegerField()
    sealed = BlobField()
    saved_at_ms = BigIntegerField()

    class Meta:
        """The table is `user`, in the database that the process has opened."""

        database = database
        legacy_table_names = False


class Key(Model):
    """A key that rows may be sealed with: not the key, but a value that only it produces."""

    id = IntegerField(primary_key=True)
    check_value = BlobField()

    class Meta:
        """The table is `key`."""

        database = database
        legacy_table_names = False


def username(user_id: int) -> str:
    """Return the generated name of a user: `user-` and the id in 13 digits of base 32.

    Names sort as their ids do.
    """
    shifts = range(5 * (_NAME_DIGITS - 1), -1, -5)
    return "user-" + "".join([_ALPHABET[user_id >> shift & 31] for shift in shifts])


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
        user_id = self._microseconds << self.SERIAL_BITS | self._serial
        self._microseconds += 1
        return user_id
