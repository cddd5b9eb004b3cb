"""Opening the database, its commits and its checkpoints.

The writer holds the only connection that writes. Others open the file `query_only`, for as short a
time as they can, because an open read transaction keeps the write-ahead log from being reused.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
from peewee import fn
from playhouse.apsw_ext import APSWDatabase

from pwserver import trust
from pwserver.config import files_beside
from pwserver.errors import DatabaseRefused
from pwserver.limits import CHECKPOINT_PAGES, LOG_BYTES_KEPT
from workers.book import models
from workers.book.keyring import INTEGRITY_ID, Keyring
from workers.book.models import SCHEMA_VERSION, TABLES, Key, Row, User
from workers.storage import generations
from workers.storage.open_files import OpenFiles
from workers.storage.validation import (
    APPLICATION_ID,
    CheckValues,
    check_keys,
    check_pages,
    check_schema,
    is_empty,
    refusals,
)
from workers.storage.writing import Operation, Result, RowWriter

_LOCK_WAIT_S = 1
"""How long to wait for another program that has locked the database: long enough for a backup's
last step, short enough to say so while the client still listens. A command of the administrator
that looks whether the database is in use has it for a moment, too."""

_LOCK_PAUSE_S = 0.01

_ADMINISTRATION_WAIT_S = 10
"""How long a command of the administrator waits for its turn to write."""

_READ_WAIT_S = 0.05
"""How long a reader waits, which a log being recovered makes it do: a worker has other clients."""

_NOT_KNOWN = (0, 0)

PRAGMAS = {
    "page_size": 4096,  # of a new file: the file system's own
    "synchronous": "full",  # COMMIT returns when the log is on the disk
    "wal_autocheckpoint": 0,  # the writer checkpoints when nobody waits, and sees the errors
    "journal_size_limit": LOG_BYTES_KEPT,
    "cache_size": -16 * 1024,  # KiB
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "secure_delete": 1,  # what is deleted or replaced is overwritten with zeros
}


def holds_a_book(path: Path) -> bool:
    """Tell whether there is a database, or the log of one, so that a key for it must exist."""
    try:
        return path.stat().st_size > 0 or generations.is_emptied(path)
    except OSError:
        return False


def require_a_book(path: Path) -> None:
    """Raise `DatabaseRefused` where there is no password book yet, or nobody can tell."""
    try:
        if os.stat(path).st_size > 0:
            return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DatabaseRefused(f"{path} cannot be used: {error.strerror}.") from None
    raise DatabaseRefused(f"there is no password book {path} yet.")


class Store:
    """The writer's connection: opened, checked, and made if there is none.

    Raises `DatabaseRefused` or `KeyRefused` where the file is not one to write to, and changes
    nothing in it then. `looks_for_damage` goes through all pages, 0.12 s a million users; else
    damage is found where it is read. `connection` is the plain apsw connection under the models.
    """

    def __init__(
        self,
        path: Path,
        keys: CheckValues,
        requests_kept_ms: int,
        *,
        looks_for_damage: bool = False,
    ) -> None:
        self.path = path
        self._log_path = Path(f"{path}-wal")
        self._lock = open_and_lock(path, self._log_path)
        self.log_pages = 0  # in the write-ahead log after the last commit
        self._log_begins = False  # with the next commit: all of the log is in the database
        self._file_state = _NOT_KNOWN  # of the database after the last checkpoint
        self._database = APSWDatabase(os.path.abspath(path), pragmas=PRAGMAS, timeout=_LOCK_WAIT_S)
        with refusals(path):
            try:
                self._database.connect()
                self.connection: apsw.Connection = self._database.connection()
                # Until it is known to be ours, nothing in it is changed, not even by closing it.
                self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                models.database.initialize(self._database)
                generations.check_log(self._database, path)
                if looks_for_damage:
                    check_pages(self._database, path)
                self._prepare(keys)
                self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            except BaseException:
                self.close()
                raise
        self._row_writer = RowWriter(self.connection, requests_kept_ms)
        self.connection.set_wal_hook(self._committed)
        self.files = OpenFiles(path, self._log_path)
        self.users = 0  # committed, once they were counted

    def _prepare(self, keys: CheckValues) -> None:
        """Make the tables if there are none; refuse what another program or version made."""
        if not is_empty(self._database):
            check_schema(self._database, self.path)
            check_keys(self.path, keys)
            self._database.pragma("journal_mode", "wal")
            return
        self._database.pragma("journal_mode", "wal")
        with self._database.atomic("IMMEDIATE"):
            self._database.create_tables(TABLES)
            sealing = list(keys)[-1]
            for key_id in (INTEGRITY_ID, sealing):
                Key.create(id=key_id, check_value=keys[key_id], seals=key_id == sealing)
            generations.make_first(self.connection)
            self._database.pragma("application_id", APPLICATION_ID)
            self._database.pragma("user_version", SCHEMA_VERSION)

    def keys(self) -> CheckValues:
        """Return the keys that the book is sealed with, the one that seals now last."""
        rows = Key.select(Key.id, Key.check_value).order_by(Key.seals, Key.id)
        return {row.id: bytes(row.check_value) for row in rows}

    def begin_log(self) -> None:
        """Have a log that no copy of the database file made so far can be taken to belong to.

        To be called before anything is saved. Where a reader is in the way, the log that is there
        goes on, and another is begun after the first complete checkpoint. Raises an `apsw.Error`.
        """
        if self.checkpoint():
            self.commit([], [])
            self.checkpoint()

    def close(self) -> None:
        """Close; where this is the last connection, everything is then in the one file.

        Raises `DatabaseRefused` where another database was copied over it, having changed nothing.
        """
        try:
            if self._file_state != _NOT_KNOWN:
                self._check_overwritten()
        except BaseException:
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            raise
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self._database.close()
        finally:  # not before: closing any descriptor of a file drops SQLite's locks on it
            os.close(self._lock)

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self.log_pages = pages
        return apsw.SQLITE_OK

    def commit(self, rows: list[Row], operations: list[Operation]) -> list[Result]:
        """Save rows and do operations as one transaction; return what became of the operations.

        Returns when it would survive pulling the plug. Where there is nothing to do, something is
        written all the same, so that one sees whether it can be. Raises an `apsw.Error`, and then
        nothing of it is done: except where a sync failed, after which nobody can tell. Raises
        `KeyRetired` for what nobody could open.
        """
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._log_begins:
                generations.begin(connection)
            elif not rows and not operations:
                generations.touch(connection)
            results = self._row_writer.apply(rows, operations)
            pages = self.log_pages
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        # Where the log is shorter than before, somebody else has copied all of it, and this commit
        # has begun another; its numbers are the old ones yet, and the next commit changes them.
        self._log_begins = not self._log_begins and self.log_pages < pages
        self.users += self._row_writer.users_more
        return results

    def to_be_emptied(self) -> bool:
        """Tell whether a commit, of nothing if need be, would delete users of removed books."""
        removed = self._row_writer.removed
        removed.look()
        return removed.pending

    def checkpoint(self) -> bool:
        """Copy the write-ahead log to the database as far as readers allow; tell if all of it.

        Raises `DatabaseRefused` where another database was copied over this one, and an
        `apsw.Error`.
        """
        self._check_overwritten()
        mode = apsw.SQLITE_CHECKPOINT_PASSIVE
        self.log_pages, copied = self.connection.wal_checkpoint(mode=mode)
        self._log_begins = self.log_pages == copied
        self._file_state = self._state()
        return self._log_begins

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._lock)
        return found.st_size, found.st_mtime_ns

    def _check_overwritten(self) -> None:
        """Look whether the database file is the one that the log belongs to, if it has changed."""
        if self._state() != self._file_state:
            generations.check_log(self._database, self.path)

    def close_after_removal(self) -> bool:
        """Close a database of which a file was taken away; return whether that could be done.

        Where only the log was, what is in it is copied to the database before, waiting for readers
        that are in the way; where one stays, nothing was closed. What is left of the log at the
        path goes too, lest it be taken for that of another database there.
        """
        if not self.files.database_removed:
            try:
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
            except apsw.BusyError:
                return False
        ours = not self.files.log_removed
        self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._close()
        if ours:
            self._log_path.unlink(missing_ok=True)
        Path(f"{self.path}-shm").unlink(missing_ok=True)
        return True

    def count_users(self) -> None:
        """Count the rows: about 20 ms a million, so once at the start and never again."""
        self.users = int(User.select().count())

    def newest_id(self) -> int:
        """Return the greatest id, or 0."""
        return int(User.select(fn.MAX(User.id)).scalar() or 0)


def check_database(path: Path, keyring: Keyring) -> None:
    """Open a database as the service would, and make it if there is none; raise what is wrong."""
    Store(path, keyring.check_values, 0, looks_for_damage=True).close()


def is_in_use(path: Path) -> bool:
    """Tell whether a service has the database open. Not to be called with it open here."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def open_to_administer(path: Path, keyring: Keyring) -> Iterator[APSWDatabase]:
    """Give the models a database beside the service that may be running on it.

    Its transactions are to be short: the writer waits for them. Raises a `StoreError` as the
    service does at its start.
    """
    pragmas = PRAGMAS | {"wal_autocheckpoint": CHECKPOINT_PAGES}
    flags = apsw.SQLITE_OPEN_READWRITE
    name, wait_s = os.path.abspath(path), _ADMINISTRATION_WAIT_S
    database = APSWDatabase(name, pragmas=pragmas, timeout=wait_s, flags=flags)
    models.database.initialize(database)
    try:
        with refusals(path):
            _check_trust(path, _found(path))
            database.connect()
            connection: apsw.Connection = database.connection()
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # until it is ours
            check_schema(database, path)
            check_keys(path, keyring.check_values)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            yield database
    finally:
        database.close()


@contextlib.contextmanager
def opened_to_examine(path: Path, keyring: Keyring) -> Iterator[APSWDatabase]:
    """Give the models an existing database in which nothing is changed.

    Raises a `StoreError` as the service does at its start; but damage is left to who looks for it.
    """
    # Beside a service the numbers may change while they are compared; it has done that itself.
    in_use = is_in_use(path)
    database = database_to_read(path)
    try:
        with refusals(path):
            _check_trust(path, _found(path))
            generations.refuse_emptied(path)
            open_to_read(database)
            if not in_use:
                generations.check_log(database, path)
            check_schema(database, path)
            check_keys(path, keyring.check_values)
            yield database
    finally:
        database.close()


def database_to_read(path: Path) -> APSWDatabase:
    """Return an existing database for the models to read, not opened yet."""
    flags = apsw.SQLITE_OPEN_READWRITE  # never creates; a reader of WAL writes to shared memory
    pragmas = {"query_only": 1, "trusted_schema": 0}
    name = os.path.abspath(path)
    reader = APSWDatabase(name, pragmas=pragmas, timeout=_READ_WAIT_S, flags=flags)
    models.database.initialize(reader)
    return reader


def open_to_read(reader: APSWDatabase) -> apsw.Connection:
    """Open a database that is to be read; closing it makes no checkpoint.

    Raises a peewee or apsw error where it cannot be read.
    """
    connection: apsw.Connection = reader.connection()
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def open_and_lock(path: Path, log_path: Path) -> int:
    """Return a descriptor that keeps other services off the database, making the file if need be.

    A new file is for its owner only, and leftovers of an older one beside it are taken away. Files
    of another user are refused.
    """
    try:
        if not os.path.lexists(path):
            _make(path, log_path)
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DatabaseRefused(f"{path} {_why_not_opened(path, error)}") from None
    try:
        _check_trust(path, os.fstat(lock))
        if not _locked(lock):
            raise DatabaseRefused(f"{path} is in use by another pwserver.")
        generations.refuse_emptied(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _why_not_opened(path: Path, error: OSError) -> str:
    """Return why a database cannot be opened, as the end of a sentence."""
    with contextlib.suppress(OSError):
        if reason := trust.not_regular(os.stat(path)):
            return reason
    if error.errno == errno.EROFS:
        return "is on a file system that is mounted read-only; the service must write to it."
    return _why_no_file(path) or f"cannot be opened for writing: {error.strerror}."


def _why_no_file(path: Path) -> str | None:
    """Return what leads nowhere, as the end of a sentence; None where a file may be made."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"is a link to {os.readlink(path)}, and there is no such file."
    try:
        os.getcwd()
    except OSError:
        return None if path.is_absolute() else "cannot be used: the current folder was removed."
    return None


def _check_trust(path: Path, found: os.stat_result) -> None:
    """Raise `DatabaseRefused` where the database, or a file that SQLite has beside it, is not ours.

    SQLite follows a link there, and somebody else's log would become part of the book.
    """
    reason = trust.distrust(found, path, os.geteuid())
    if reason:
        raise DatabaseRefused(f"{path} {reason}")
    for beside in files_beside(os.path.realpath(path)):
        with contextlib.suppress(FileNotFoundError):
            if reason := trust.distrust(os.lstat(beside), beside, os.geteuid()):
                raise DatabaseRefused(f"{beside} {reason}")


def _found(path: Path) -> os.stat_result:
    """Return what stat(2) says of a database; raise `DatabaseRefused` where there is none."""
    try:
        return os.stat(path)
    except OSError as error:
        raise DatabaseRefused(f"{path} cannot be opened: {error.strerror}.") from None


def check_can_be_made(path: Path) -> None:
    """Raise `DatabaseRefused` where there can be no database: before a key is made for it."""
    try:
        os.path.abspath(path).encode()
        reason = trust.distrust(os.stat(path), path, os.geteuid())
    except FileNotFoundError:
        reason = _why_no_file(path)
    except UnicodeEncodeError:
        reason = "has a name, or a folder, that is not UTF-8, and SQLite knows no other."
    except OSError as error:
        reason = f"cannot be used: {error.strerror}."
    if reason:
        raise DatabaseRefused(f"{path} {reason}")


def check_is_a_book(path: Path) -> None:
    """Raise `DatabaseRefused` for a file that cannot be a password book, whatever the key is."""
    _check_trust(path, _found(path))
    reader = database_to_read(path)
    try:
        with refusals(path):
            open_to_read(reader)
            if not is_empty(reader):
                check_schema(reader, path)
    finally:
        reader.close()


def _make(path: Path, log_path: Path) -> None:
    """Make an empty file where there is none, and no log beside it.

    The old log goes first, and for good; so a log beside an empty file is never what a start has
    left that was killed. The folder is locked, lest another start's log be taken for an old one.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # not every file system can lock a folder
            _locked(folder)
        if os.path.lexists(path):
            return
        for leftover in (log_path, Path(f"{path}-shm")):
            if leftover.exists():
                leftover.unlink()
                os.fsync(folder)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    finally:
        os.close(folder)


def _locked(descriptor: int) -> bool:
    """Take the lock of a file; return whether it could be had within `_LOCK_WAIT_S`."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOCK_PAUSE_S)
        else:
            return True
