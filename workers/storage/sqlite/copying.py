"""Copies a database into one file while a service writes to it, and opens such a copy.

The copy is made by SQLite's online backup, in steps, each of them synced. Without more, a step
would begin the copy again after each commit of another process. So one read transaction is held
until the end: the copy has the state at its beginning. Meanwhile the log cannot be begun again and
grows by what is saved, so a copy never rests. What is done with it afterwards holds up nobody.

Knows nothing of keys.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
from playhouse.apsw_ext import APSWDatabase

from pwserver import lock_file
from pwserver.errors import ConfigError, DatabaseRefused, StorageFailed
from workers.book import models
from workers.storage.disk_space import is_below
from workers.storage.sqlite import generations
from workers.storage.sqlite.validation import APPLICATION_ID, refusals

_STEP_PAGES = 1024
"""Pages (of 4 KiB) that are copied and synced at a time: a few milliseconds. If all were synced at
the end, the commits of the service would wait for that on many file systems."""

_HANDLER_STEPS = 2000
"""After how many steps of SQLite, while it counts, `progress` is called: a millisecond."""

_MAGIC = b"SQLite format 3\0"

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


class Header(NamedTuple):
    """What the first bytes of a database file say of it."""

    application_id: int
    size_bytes: int  # how long the file must be


def read_header(descriptor: int) -> Header | None:
    """Return the header of an open file, or None if it is no database of SQLite."""
    head = os.pread(descriptor, 100, 0)
    if len(head) < 100 or not head.startswith(_MAGIC):
        return None
    page_bytes = int.from_bytes(head[16:18], "big")
    pages = int.from_bytes(head[28:32], "big")
    return Header(
        int.from_bytes(head[68:72], "big"), pages * (65536 if page_bytes == 1 else page_bytes)
    )


def check_whole(descriptor: int, name: Path) -> None:
    """Raise `DatabaseRefused` for an open file that is no whole password book; `name` is its."""
    header, size = read_header(descriptor), os.fstat(descriptor).st_size
    if header is None:
        raise DatabaseRefused(f"{name} is no backup: it is not a database. Nothing was changed.")
    if header.application_id != APPLICATION_ID:
        raise DatabaseRefused(
            f"{name} is no backup: it is a database of another program. Nothing was changed."
        )
    if size < header.size_bytes:
        raise DatabaseRefused(
            f"{name} is cut short: it has {size:,} of {header.size_bytes:,} bytes. Nothing was "
            "changed."
        )


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[int]:
    """Yield the descriptor of an empty, private, locked file, which the caller fills and renames.

    What an interruption has left there is used again. If the file was not renamed, it is deleted.
    Raises `ConfigError` if there can be no such file, or another command is writing it.
    """
    try:
        lock = lock_file.lock(path, os.geteuid())
    except lock_file.Untrusted as reason:
        raise ConfigError(f"{path} {reason}") from None
    except BlockingIOError:
        raise ConfigError(f"{path} is being written by another pwserver.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}.") from None
    try:
        os.ftruncate(lock, 0)
        remove_log(path)
        yield lock
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                os.unlink(path)
                remove_log(path)
        os.close(lock)


def remove_log(path: Path) -> None:
    """Remove what SQLite keeps beside a database that is to have no log."""
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise `StorageFailed` if a disk has less room than a copy needs."""
    if is_below(folder, needed_bytes):
        raise StorageFailed(
            f"there is no room for the copy in {folder}: it needs {needed_bytes:,} bytes. Nothing "
            "was changed."
        )


def copy(
    database: APSWDatabase, part: Path, descriptor: int, reserve_bytes: int, progress: Progress
) -> int:
    """Copy an open database into an empty file; return how many users are in the copy.

    `reserve_bytes` are left free if the copy is on the disk of the database. Raises `StorageFailed`
    if the copy cannot be written, and SQLite's errors if the database cannot be read.
    """
    source: apsw.Connection = database.connection()
    with source:  # one transaction, which begins with the first SELECT
        pages = int(source.pragma("page_count"))

        def called_back() -> bool:
            progress(0, pages)
            return False

        source.set_progress_handler(called_back, _HANDLER_STEPS)
        users = int(source.execute("SELECT COUNT(*) FROM user").get)
        needed = pages * source.pragma("page_size")
        if os.fstat(descriptor).st_dev == os.stat(source.filename).st_dev:
            needed += reserve_bytes
        check_room(part.parent, needed)
        copied = apsw.Connection(os.path.abspath(part), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            for pragma, value in (("journal_mode", "off"), ("synchronous", "off")):
                copied.pragma(pragma, value)
            with copied.backup("main", source, "main") as steps:
                while not steps.done:
                    steps.step(_STEP_PAGES)
                    os.fdatasync(descriptor)
                    progress(steps.page_count - steps.remaining, steps.page_count)
        except (apsw.FullError, apsw.IOError) as error:
            _raise_if_unwritten(error, copied, part)
            raise
        finally:
            copied.close()
    sync(descriptor, part)
    return users


def _raise_if_unwritten(error: apsw.Error, copied: apsw.Connection, part: Path) -> None:
    """Raise `StorageFailed` if it is the copy that failed, and not the database."""
    writing = (apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_TRUNCATE)
    reason = ""
    if isinstance(error, apsw.FullError):
        reason = "the disk is full"
    elif getattr(error, "extendedresult", 0) in writing:
        reason = os.strerror(copied.system_errno)
    if reason:
        raise StorageFailed(
            f"the copy {part} cannot be written: {reason}. Nothing was changed."
        ) from None


def sync(descriptor: int, part: Path) -> None:
    """Have all of a file on the disk; raise `StorageFailed`."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise StorageFailed(
            f"the copy {part} cannot be written: {error.strerror}. Nothing was changed."
        ) from None


@contextlib.contextmanager
def opened_copy(path: Path, name: Path) -> Iterator[APSWDatabase]:
    """Open a copy that nobody writes to for the models to read; `name` is what errors call it."""
    pragmas = {"query_only": 1, "trusted_schema": 0, "cell_size_check": 1}
    database = APSWDatabase(generations.alone(path), pragmas=pragmas, flags=generations.ALONE_FLAGS)
    models.database.initialize(database)
    try:
        with refusals(name):
            database.connect()
            yield database
    finally:
        database.close()
