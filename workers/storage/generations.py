"""Whether a database and the write-ahead log beside it belong together.

A log holds pages, and does not say of which database. Where an older copy is put back beside the
log of a service that was killed, SQLite writes those pages into the copy. So the database has one
row with two random numbers:

    current     of the log that is written now: the first commit of each log makes another
    previous    the `current` that the database file had, whole and synced, when that log was begun

While a log is copied to the database the file has one of the two, and after it `current`. This is
so after every kill and power loss, because `previous` is only ever changed to what a complete
checkpoint has synced. A file that has neither never was below this log.

`Store` alone makes new numbers, which needs the lock of the service; others may copy the log, but
leave the numbers as they are.
"""

import os
from pathlib import Path
from urllib.parse import quote

import apsw
from peewee import DatabaseError
from playhouse.apsw_ext import APSWDatabase

from pwserver.errors import DatabaseRefused
from workers.book.models import NO_GENERATION, SCHEMA_VERSION

_BYTES = 16
_ROW = 0x70775376
"""The id of the row. It is in no other table, so no page of one is taken for this table's."""

_READ = "SELECT previous, current FROM generation WHERE id = ?"
_BEGIN = "UPDATE generation SET previous = current, current = ? WHERE id = ?"
_TOUCH = "UPDATE generation SET current = current WHERE id = ?"


def make_first(connection: apsw.Connection) -> None:
    """Put the row into a database that has none: nothing of it is in the file as yet."""
    values = (_ROW, NO_GENERATION, os.urandom(_BYTES))
    connection.execute("INSERT INTO generation VALUES (?, ?, ?)", values)


def begin(connection: apsw.Connection) -> None:
    """Make another number, in the transaction that begins a log.

    Only to be called where the last checkpoint was complete. The first page is written as well: so
    every log says where the row is.
    """
    connection.execute(_BEGIN, (os.urandom(_BYTES), _ROW))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def touch(connection: apsw.Connection) -> None:
    """Write the row as it is: something is written then, and nothing changes."""
    connection.execute(_TOUCH, (_ROW,))


def check_log(database: APSWDatabase, path: Path) -> None:
    """Raise `DatabaseRefused` where the log is not that of the database; change nothing.

    To be called before anything else is read, with a database that is open.
    """
    alone = _read_alone(path)
    try:
        both = _read(database.connection())
    except (apsw.CorruptError, apsw.NotADBError):
        if alone is not None and alone[1]:  # it is the log that makes it unreadable
            raise DatabaseRefused(foreign_log(path)) from None
        raise
    if alone is None:  # damage is for others to find
        return
    found, known = alone[1], both or (b"", b"")
    if found not in known and (found or known[0] != NO_GENERATION):
        raise DatabaseRefused(foreign_log(path))


def refuse_emptied(path: Path) -> None:
    """Raise `DatabaseRefused` for a file of no bytes beside a log, which SQLite would delete."""
    if is_emptied(path):
        raise DatabaseRefused(
            f"{path} is empty, but its log {path}-wal is not. Nothing was changed. Put the "
            f"database back; or, for a fresh book, remove both: rm {path} {path}-wal"
        )


def is_emptied(path: Path) -> bool:
    """Tell whether a database is there and of no bytes, and its log is there and is not."""
    try:
        return not path.stat().st_size and bool(os.stat(f"{path}-wal").st_size)
    except OSError:
        return False


def foreign_log(path: Path) -> str:
    """Return what is said of a database whose log belongs to another, with both ways out."""
    return (
        f"{path} and its log {path}-wal do not belong together: the database was put back or "
        "replaced while the log of another one was left beside it. Nothing was changed. To use the "
        f"database as it is now, without the log: rm {path}-wal {path}-shm. To use what the log "
        "belongs to, put the former database back. Then start again."
    )


_Numbers = tuple[bytes, bytes]  # previous and current; both empty where there is no such row


def _read(connection: apsw.Connection) -> _Numbers | None:
    """Return the numbers as the database has them, or None where it lacks the table."""
    try:
        row = connection.execute(_READ, (_ROW,)).fetchone()
    except apsw.SQLError:
        return None
    return (b"", b"") if row is None else row


def _read_alone(path: Path) -> _Numbers | None:
    """Return the numbers that are in the file itself, whatever the log says; None if unreadable.

    SQLite ignores the log of a file that is called immutable.
    """
    name = f"file:{quote(os.fsencode(os.path.abspath(path)))}?immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(name, flags=flags)
        try:
            return _read(connection) or (b"", b"")
        finally:
            connection.close()
    except (apsw.Error, DatabaseError):
        return None
