"""Puts a backup in the place of the book, while no service runs.

The backup is copied beside the book and verified there. One rename then replaces the book, so a
kill at any moment leaves the old book or the new one, and a second run goes on. The old book keeps
another name. Its log is copied into it before; if that is impossible, because the old book is
damaged, the log is kept beside it. A log that stayed would not belong to the new book.

What was decided after the backup was made stays decided (`auth.revisions`): an application that was
changed since may do nothing. If a key was added since, it is noted in the new book, because the
service seals with no older one.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import apsw
from peewee import DatabaseError
from playhouse.apsw_ext import APSWDatabase

from pwserver import trust
from pwserver.config import StoreSettings
from pwserver.errors import ConfigError, DatabaseRefused, KeyRefused, StorageFailed
from workers.admin.copied_book import Found, Pace, Progress, verify
from workers.admin.recording import Recording
from workers.auth.applications import is_genuine
from workers.auth.revisions import RevisionFile, Revisions
from workers.book.keyring import Keyring
from workers.storage.backup_files import TIME_FORM
from workers.storage.sqlite import copying, generations
from workers.storage.sqlite.database import lock_existing
from workers.storage.sqlite.validation import run_nothing_of

_COPY_BYTES = 4 * 1024 * 1024

_INSERT_KEY = "INSERT OR IGNORE INTO key (id, check_value, seals) VALUES (?, ?, 0)"
_SEAL_WITH = "UPDATE key SET seals = id = ?"


@dataclass(frozen=True)
class Restored:
    """What was restored, and what that means."""

    found: Found
    kept: Path | None
    """The book that it has replaced; None if there was none."""
    changed: list[str]
    """The applications that were changed after the backup was made; they may do nothing."""
    rotate_to: int
    """The key to seal everything with again; 0 if that is not needed."""


def restore(settings: StoreSettings, keyring: Keyring, file: Path, progress: Progress) -> Restored:
    """Replace the book by a backup; return what that means.

    Raises a `PwserverError`, and then the book is as it was.
    """
    path = Path(os.path.realpath(settings.path))
    known = RevisionFile(settings.revisions_path, keyring).read()
    if known.sealing_key not in keyring.keys:
        raise KeyRefused(
            f"the key file lacks key {known.sealing_key}, which passwords were sealed with before. "
            f"Put the newest key file back; or, if there is none, remove {settings.revisions_path}."
        )
    part = path.with_name(f"{path.name}.restoring")
    with _locked(path), copying.unfinished(part) as descriptor:
        _copy(file, part, descriptor, progress)
        found = verify(settings, keyring, part, file, progress, Pace(0.0))
        changed = _changed(found, known, keyring)
        rotates = known.sealing_key not in found.keys
        if rotates:
            _seal_with(part, keyring, known.sealing_key)
        copying.sync(descriptor, part)
        recording = Recording(settings, keyring)
        try:
            recording.record("administration", "restore")
        finally:
            recording.close()
        kept = _replace(path, part)
    rotate_to = known.sealing_key if rotates else 0
    return Restored(found, kept, changed, rotate_to)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that services take, if there is a book; raise `DatabaseRefused`."""
    lock = lock_existing(path) if os.path.lexists(path) else None
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _copy(file: Path, part: Path, descriptor: int, progress: Progress) -> None:
    """Copy a backup beside the book; raise an error if it is no whole backup that we trust."""
    user = os.geteuid()
    try:
        with trust.roots_rights():
            source = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {file}.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from None
    try:
        if reason := trust.distrust(os.fstat(source), file, user):
            raise ConfigError(f"{file} {reason}")
        copying.check_whole(source, file)
        if generations.has_log(file):
            raise DatabaseRefused(
                f"{file} is not whole without its log {file}-wal. Start a service on it and stop "
                "it, or make a backup of it. Nothing was changed."
            )
        size = os.fstat(source).st_size
        copying.check_room(part.parent, size)
        done = 0
        while data := os.read(source, _COPY_BYTES):
            _write(descriptor, data, part)
            done += len(data)
            progress("Copying", done, size)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from None
    finally:
        os.close(source)


def _write(descriptor: int, data: bytes, part: Path) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError as error:
        raise StorageFailed(
            f"the copy {part} cannot be written: {error.strerror}. Nothing was changed."
        ) from None


def _changed(found: Found, known: Revisions, keyring: Keyring) -> list[str]:
    """Return the names of the applications in a copy that were changed after it was made."""
    key = keyring.for_purpose("application")
    rows = [row for row in found.applications if is_genuine(row, key)]
    return sorted(row.name for row in rows if not known.allows(row))


def _seal_with(part: Path, keyring: Keyring, key_id: int) -> None:
    """Let a copy of the book seal with a newer key than it knows, as a rotation begins."""
    connection = apsw.Connection(os.path.abspath(part), flags=apsw.SQLITE_OPEN_READWRITE)
    run_nothing_of(connection)
    try:
        with connection:
            connection.execute(_INSERT_KEY, (key_id, keyring.keys[key_id].check_value))
            connection.execute(_SEAL_WITH, (key_id,))
    except (apsw.FullError, apsw.IOError) as error:
        raise StorageFailed(
            f"the copy {part} cannot be written: {error}. Nothing was changed."
        ) from None
    finally:
        connection.close()


def _replace(path: Path, part: Path) -> Path | None:
    """Give the copy the name of the book; return the name that the old book has now, if any."""
    if not os.path.lexists(path):
        copying.remove_log(path)  # of a book that is gone: nobody can use it
        os.rename(part, path)
        trust.sync_folder(path)
        return None
    _forget_unfinished(path)
    kept = _free_name(path)
    settled = _settle_log(path)
    os.link(path, kept)
    if not settled:
        os.link(f"{path}-wal", f"{kept}-wal")
    trust.sync_folder(path)
    os.rename(part, path)
    copying.remove_log(path)
    trust.sync_folder(path)
    return kept


def _forget_unfinished(path: Path) -> None:
    """Remove second names of the book: a restore was killed before it replaced it."""
    for earlier in list(path.parent.glob(f"{path.name}.before-*")):
        if not earlier.name.endswith("-wal") and earlier.samefile(path):
            earlier.unlink()
            Path(f"{earlier}-wal").unlink(missing_ok=True)


def _free_name(path: Path) -> Path:
    """Return a name for the book that is replaced now."""
    now = f"{datetime.fromtimestamp(time.time(), UTC):{TIME_FORM}}"
    names = (path.with_name(f"{path.name}.before-{now}{more}") for more in ("", *"abcdefgh"))
    return next(name for name in names if not os.path.lexists(name))


def _settle_log(path: Path) -> bool:
    """Copy the log of the old book into it; return whether it needs none any more."""
    if not generations.has_log(path):
        return True
    flags = apsw.SQLITE_OPEN_READWRITE
    database = APSWDatabase(str(path), flags=flags)
    try:
        connection: apsw.Connection = database.connection()
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        generations.refuse_emptied(path)
        generations.check_log(database, path)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except (apsw.Error, DatabaseError, DatabaseRefused):
        return False
    finally:
        database.close()
    return True
