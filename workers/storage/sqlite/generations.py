"""Checks that a database and the write-ahead log beside it belong together.

A log holds pages, but does not say of which database. If somebody puts an older copy of the
database beside the log of a killed service, SQLite writes the log's pages into the copy. So the
database has one row with two random numbers:

    current     the number of the present log: the first commit of each log makes a new one
    previous    the `current` that the complete, synced database file had when that log began

While a log is copied to the database, the file has one of the two numbers, and afterwards
`current`. This holds after every kill and power loss, because `previous` is only set to a number
that a complete checkpoint has synced. A file that has neither number does not belong to this log.

Only `Store`, which holds the service's lock, makes new numbers. Other programs may copy the log to
the database, but do not change the numbers.
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
"""The id of the row. No other table has it, so no other table's page can be taken for this one."""

_READ = "SELECT previous, current FROM generation WHERE id = ?"
_BEGIN = "UPDATE generation SET previous = current, current = ? WHERE id = ?"
_TOUCH = "UPDATE generation SET current = current WHERE id = ?"


def make_first(connection: apsw.Connection) -> None:
    """Insert the row into a new database, whose file does not contain it yet."""
    values = (_ROW, NO_GENERATION, os.urandom(_BYTES))
    connection.execute("INSERT INTO generation VALUES (?, ?, ?)", values)


def begin(connection: apsw.Connection) -> None:
    """Make a new number, in the first transaction of a log.

    Call it only after a complete checkpoint. It also writes the database's first page, so that
    every log says where the row is.
    """
    connection.execute(_BEGIN, (os.urandom(_BYTES), _ROW))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def touch(connection: apsw.Connection) -> None:
    """Write the row without changing it, so that the transaction writes something."""
    connection.execute(_TOUCH, (_ROW,))


def check_log(database: APSWDatabase, path: Path) -> None:
    """Raise `DatabaseRefused` if the log belongs to another database; change nothing.

    Call it with an open database, before anything else is read.
    """
    alone = _read_alone(path)
    try:
        both = _read(database.connection())
    except (apsw.CorruptError, apsw.NotADBError):
        if alone is not None and alone[1]:  # readable without the log
            raise DatabaseRefused(foreign_log(path)) from None
        raise
    if alone is None:  # damaged: other checks report that
        return
    found, known = alone[1], both or (b"", b"")
    if found not in known and (found or known[0] != NO_GENERATION):
        raise DatabaseRefused(foreign_log(path))


def refuse_emptied(path: Path) -> None:
    """Raise `DatabaseRefused` for an empty file beside a log, which SQLite would delete."""
    if is_emptied(path):
        raise DatabaseRefused(
            f"{path} is empty, but its log {path}-wal is not. Nothing was changed. Put the "
            f"database back; or, for a fresh book, remove both: rm {path} {path}-wal"
        )


def is_emptied(path: Path) -> bool:
    """Tell whether a database file is empty although its log is not."""
    try:
        return not path.stat().st_size and has_log(path)
    except OSError:
        return False


def has_log(path: Path) -> bool:
    """Tell whether there is a log with something in it beside a database."""
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except OSError:
        return False


def foreign_log(path: Path) -> str:
    """Return the message for a database whose log belongs to another, with both ways out."""
    return (
        f"{path} and its log {path}-wal do not belong together: the database was put back or "
        "replaced while the log of another one was left beside it. Nothing was changed. To use the "
        f"database as it is now, without the log: rm {path}-wal {path}-shm. To use what the log "
        "belongs to, put the former database back. Then start again."
    )


_Numbers = tuple[bytes, bytes]  # previous and current; both empty if there is no such row


def _read(connection: apsw.Connection) -> _Numbers | None:
    """Return the numbers in the database, or None if it lacks the table."""
    try:
        row = connection.execute(_READ, (_ROW,)).fetchone()
    except apsw.SQLError:
        return None
    return (b"", b"") if row is None else row


ALONE_FLAGS = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


def alone(path: Path) -> str:
    """Return the name under which SQLite reads a database without the log beside it.

    It is to be opened with `ALONE_FLAGS`. Nothing is locked, and no file is made.
    """
    return f"file:{quote(os.fsencode(os.path.abspath(path)))}?immutable=1"


def _read_alone(path: Path) -> _Numbers | None:
    """Return the numbers in the database file, without its log; None if it is unreadable.

    SQLite ignores the log of a file that is opened as immutable.
    """
    try:
        connection = apsw.Connection(alone(path), flags=ALONE_FLAGS)
        try:
            return _read(connection) or (b"", b"")
        finally:
            connection.close()
    except (apsw.Error, DatabaseError):
        return None
