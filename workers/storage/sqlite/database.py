"""Opens the database, and does its commits and checkpoints.

Only worker 1, which has the writer, saves passwords. The others and the console open the file
`query_only`. All keep their read transactions short, because an open one keeps the write-ahead log
from being reused.
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

from pwserver import lock_file, trust
from pwserver.config import files_beside
from pwserver.errors import DatabaseRefused
from pwserver.limits import CHECKPOINT_PAGES, LOG_BYTES_KEPT
from workers.book import models
from workers.book.keyring import INTEGRITY_ID, Keyring
from workers.book.models import SCHEMA_VERSION, TABLES, Key, Row, User
from workers.storage.operations import CheckValues, Operation, Result
from workers.storage.sqlite import generations
from workers.storage.sqlite.open_files import OpenFiles
from workers.storage.sqlite.validation import (
    APPLICATION_ID,
    check_keys,
    check_pages,
    check_schema,
    is_empty,
    refusals,
    run_nothing_of,
)
from workers.storage.sqlite.writing import RowWriter

_LOCK_WAIT_S = 1
"""How long to wait for another program that has locked the database: long enough for a backup's
last step, short enough to answer while the client still waits. An administrator's command that
tests whether the database is in use also locks it for a moment."""

_LOCK_PAUSE_S = 0.01

_ADMINISTRATION_WAIT_S = 10
"""How long an administrator's command waits for its turn to write."""

_READ_WAIT_S = 0.05
"""How long a reader waits while a log is recovered: short, because a worker has other clients."""

_NOT_KNOWN = (0, 0)

PRAGMAS = {
    "page_size": 4096,  # of a new file: the file system's own
    "synchronous": "full",  # COMMIT returns after the log is on the disk
    "wal_autocheckpoint": 0,  # the writer checkpoints after its replies, and sees the errors
    "journal_size_limit": LOG_BYTES_KEPT,
    "cache_size": -16 * 1024,  # KiB
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "secure_delete": 1,  # what is deleted or replaced is overwritten with zeros
}


def holds_a_book(path: Path) -> bool:
    """Tell whether there is a database or a log of one, so that a key for it must exist."""
    try:
        return path.stat().st_size > 0 or generations.is_emptied(path)
    except OSError:
        return False


def require_a_book(path: Path) -> None:
    """Raise `DatabaseRefused` if there is no password book yet, or its path cannot be used."""
    try:
        if os.stat(path).st_size > 0:
            return
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DatabaseRefused(f"{path} cannot be used: {error.strerror}.") from None
    raise DatabaseRefused(f"there is no password book {path} yet.")


class Store:
    """The writer's connection: it opens and checks the database, and makes one if there is none.

    Raises `DatabaseRefused` or `KeyRefused` if the file must not be written to, and then changes
    nothing in it. `looks_for_damage` checks all pages, 0.12 s a million users; otherwise damage is
    found when it is read. `connection` is the plain apsw connection under the models.
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
        self.log_pages = 0  # pages in the write-ahead log after the last commit
        self._log_begins = False  # the next commit begins a new log: all is in the database
        self._file_state = _NOT_KNOWN  # the database file's state after the last checkpoint
        self._database = APSWDatabase(os.path.abspath(path), pragmas=PRAGMAS, timeout=_LOCK_WAIT_S)
        with refusals(path):
            try:
                self._database.connect()
                self.connection: apsw.Connection = self._database.connection()
                run_nothing_of(self.connection)
                # Change nothing, not even by closing it, until the file is known to be ours.
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
        self.users = 0  # committed users; valid after `count_users`

    def _prepare(self, keys: CheckValues) -> None:
        """Make the tables if there are none; refuse a file of another program or version."""
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
        """Return the check values of the book's keys by their ids; the sealing key is last."""
        rows = Key.select(Key.id, Key.check_value).order_by(Key.seals, Key.id)
        return {row.id: bytes(row.check_value) for row in rows}

    def begin_log(self) -> None:
        """Begin a log with a new number, so that it matches no earlier copy of the database file.

        Call it before anything is saved. If a reader is in the way, the present log continues, and
        a new one begins after the first complete checkpoint. Raises an `apsw.Error`.
        """
        if self.checkpoint():
            self.commit([], [])
            self.checkpoint()

    def close(self) -> None:
        """Close; if this is the last connection, everything is then in the database file.

        Raises `DatabaseRefused` and changes nothing if another database was copied over it.
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
        finally:  # last, because closing any descriptor of a file drops SQLite's locks on it
            os.close(self._lock)

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self.log_pages = pages
        return apsw.SQLITE_OK

    def commit(self, rows: list[Row], operations: list[Operation]) -> list[Result]:
        """Save rows and do operations in one transaction; return the operations' results.

        When it returns, the changes survive a power loss. If there is nothing to do, it still
        writes something, to show whether that is possible. Raises an `apsw.Error`; then nothing was
        done, except that after a failed sync the outcome is unknown. Raises `KeyRetired` for
        changes that nobody could open.
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
            self._row_writer.undone()
            raise
        # If the log is shorter than before, another process has copied all of it, and this commit
        # has begun a new log, still with the old number; the next commit makes a new one.
        self._log_begins = not self._log_begins and self.log_pages < pages
        self.users += self._row_writer.users_more
        return results

    def to_be_emptied(self) -> bool:
        """Tell whether the next commit, even an empty one, would delete users of removed books."""
        removed = self._row_writer.removed
        removed.look()
        return removed.pending

    def checkpoint(self) -> bool:
        """Copy the write-ahead log to the database as far as readers allow; tell if all was copied.

        Raises an `apsw.Error`, or `DatabaseRefused` if another database was copied over this one.
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
        """If the database file has changed, check that the log belongs to it."""
        if self._state() != self._file_state:
            generations.check_log(self._database, self.path)

    def close_after_removal(self) -> bool:
        """Close a database of which a file was removed; return whether it was closed.

        If only the log was removed, first copy its content to the database, waiting for readers; if
        one stays in the way, do not close. Delete our log if it is still at its path, so that it is
        not taken for another database's.
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
        """Count the rows. This takes about 20 ms a million, so it is done only at the start."""
        self.users = int(User.select().count())

    def newest_id(self) -> int:
        """Return the greatest id, or 0."""
        return int(User.select(fn.MAX(User.id)).scalar() or 0)


def check_database(path: Path, keyring: Keyring) -> None:
    """Open a database as the service would, and make it if there is none; raise what is wrong."""
    Store(path, keyring.check_values, 0, looks_for_damage=True).close()


def is_in_use(path: Path) -> bool:
    """Tell whether a service has the database open. Do not call it with the database open here."""
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
    """Open a database for the models to change, while a service may be using it.

    Keep the transactions short, because the writer waits for them. Raises a `StoreError` as the
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
            run_nothing_of(connection)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # until it is known ours
            check_schema(database, path)
            check_keys(path, keyring.check_values)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            yield database
    finally:
        database.close()


@contextlib.contextmanager
def opened_to_examine(
    path: Path, keyring: Keyring, wait_s: float = _READ_WAIT_S
) -> Iterator[APSWDatabase]:
    """Open an existing database for the models to read.

    `wait_s` is how long to wait for a log that is being recovered. Raises a `StoreError` as the
    service does at its start, but does not look for damage.
    """
    # A running service has checked its log itself, and may change the numbers during a check.
    in_use = is_in_use(path)
    database = database_to_read(path, wait_s)
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


def database_to_read(path: Path, wait_s: float = _READ_WAIT_S) -> APSWDatabase:
    """Return an existing database for the models to read, but do not open it yet."""
    flags = apsw.SQLITE_OPEN_READWRITE  # never creates; a reader of WAL writes to shared memory
    pragmas = {"query_only": 1, "trusted_schema": 0}
    name = os.path.abspath(path)
    reader = APSWDatabase(name, pragmas=pragmas, timeout=wait_s, flags=flags)
    models.database.initialize(reader)
    return reader


def open_to_read(reader: APSWDatabase) -> apsw.Connection:
    """Open a database for reading; closing it makes no checkpoint.

    Raises a peewee or apsw error if it cannot be read.
    """
    connection: apsw.Connection = reader.connection()
    run_nothing_of(connection)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def open_and_lock(path: Path, log_path: Path) -> int:
    """Make the file if there is none, and return a descriptor with the lock that services take.

    Only the owner may use a new file, and leftovers of an older one beside it are deleted. Files
    of another user are refused.
    """
    try:
        if not os.path.lexists(path):
            _make(path, log_path)
    except OSError as error:
        raise DatabaseRefused(f"{path} {_why_not_opened(path, error)}") from None
    lock = lock_existing(path)
    try:
        generations.refuse_emptied(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def lock_existing(path: Path) -> int:
    """Return a descriptor of an existing file with the lock that services take."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DatabaseRefused(f"{path} {_why_not_opened(path, error)}") from None
    try:
        _check_trust(path, os.fstat(lock))
        if not _locked(lock):
            raise DatabaseRefused(f"{path} is in use by another pwserver.")
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
    """Return why no file can be at a path, as the end of a sentence, or None."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"is a link to {os.readlink(path)}, and there is no such file."
    try:
        os.getcwd()
    except OSError:
        return None if path.is_absolute() else "cannot be used: the current folder was removed."
    return None


def _check_trust(path: Path, found: os.stat_result) -> None:
    """Raise `DatabaseRefused` if the database, or a file of SQLite beside it, is not ours.

    SQLite would follow a link there, and make another user's log part of the book.
    """
    reason = trust.distrust(found, path, os.geteuid())
    if reason:
        raise DatabaseRefused(f"{path} {reason}")
    for beside in files_beside(os.path.realpath(path)):
        with contextlib.suppress(FileNotFoundError):
            if reason := trust.distrust(os.lstat(beside), beside, os.geteuid()):
                raise DatabaseRefused(f"{beside} {reason}")


def _found(path: Path) -> os.stat_result:
    """Return the stat(2) result of a database; raise `DatabaseRefused` if there is none."""
    try:
        return os.stat(path)
    except OSError as error:
        raise DatabaseRefused(f"{path} cannot be opened: {error.strerror}.") from None


def check_can_be_made(path: Path) -> None:
    """Raise `DatabaseRefused` if no database can be at a path. Call it before making a key."""
    try:
        os.path.abspath(path).encode()
        reason = trust.distrust(os.stat(path), path, os.geteuid())
    except FileNotFoundError:
        reason = _why_no_file(path)
    except UnicodeEncodeError:
        reason = "has a name, or a folder, that is not UTF-8, which SQLite requires."
    except OSError as error:
        reason = f"cannot be used: {error.strerror}."
    if reason:
        raise DatabaseRefused(f"{path} {reason}")


def check_is_a_book(path: Path) -> None:
    """Raise `DatabaseRefused` for a file that is no password book, without knowing the key."""
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
    """Make an empty file if there is none, after deleting an old log beside it.

    The old log is deleted first and durably, so a start that is killed never leaves a log beside an
    empty file. A lock keeps another start's new log from being taken for an old one.
    """
    lock_path = Path(f"{path}-lock")
    try:
        lock = lock_file.lock(lock_path, os.geteuid(), _LOCK_WAIT_S)
    except lock_file.Untrusted as reason:
        raise DatabaseRefused(f"{lock_path} {reason}") from None
    except BlockingIOError:
        raise DatabaseRefused(f"{lock_path} is locked: another pwserver makes {path}.") from None
    try:
        if os.path.lexists(path):
            return
        for leftover in (log_path, Path(f"{path}-shm")):
            if leftover.exists():
                leftover.unlink()
                _sync_folder(path)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    finally:
        lock_file.unlock(lock, lock_path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _locked(descriptor: int) -> bool:
    """Lock a file; return whether that succeeded within `_LOCK_WAIT_S`."""
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
