"""Makes a verified copy of the book in one file; a service may be writing to the book.

The copy is written beside the place where it is to be, verified there, and only then renamed. So a
file with the name of a backup is whole and opens with the keys, whenever a backup was interrupted.
A copy that is not in order keeps a name that says so, because it may be the newest that there is.
"""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from pwserver import trust
from pwserver.config import StoreSettings, files_beside
from pwserver.errors import ConfigError, DatabaseRefused
from workers.admin.copied_book import Pace, Progress, verify
from workers.book.keyring import Keyring
from workers.storage.backup_files import name_of, unfinished_name
from workers.storage.sqlite import copying, generations
from workers.storage.sqlite.database import is_in_use, opened_to_examine
from workers.storage.sqlite.validation import APPLICATION_ID

_WAIT_S = 5.0
"""How long to wait while a service recovers its log."""

_REST = 3.0
"""How long the verification rests beside a running service, as a multiple of its working time."""

NICENESS = 5
"""The priority of who makes a backup, a little lower than the workers'. Much lower, a busy service
would make it take for ever, and the log grows while the book is copied. The kernel derives the
priority on the disk from it."""


@dataclass(frozen=True)
class Backup:
    """A backup that was made."""

    path: Path
    users: int
    size_bytes: int
    keys: list[int]
    """The keys that it needs."""
    took_s: float


def back_up(
    settings: StoreSettings,
    keyring: Keyring,
    target: Path,
    progress: Progress,
    reserve_bytes: int,
) -> Backup:
    """Copy the book to a file, or into a folder under a name with the time, and verify the copy.

    `reserve_bytes` stay free on the disk of the book. Raises a `PwserverError`, and then there is
    no new file with the name of a backup.
    """
    began_s = time.time()
    if target.is_dir():
        part = target / unfinished_name(settings.path)
        target /= name_of(settings.path, began_s)
    else:
        part = target.with_name(f"{target.name}.part")
    _check_target(settings, target)
    pace = Pace(_REST if is_in_use(settings.path) else 0.0)
    with copying.unfinished(part) as descriptor:
        with opened_to_examine(settings.path, keyring, _WAIT_S) as database:
            users = copying.copy(
                database,
                part,
                descriptor,
                reserve_bytes,
                lambda done, total: progress("Copying", done, total),
            )
        try:
            found = verify(settings, keyring, part, part, progress, pace)
            if found.users != users:
                raise DatabaseRefused(
                    f"{part} is not in order: it has {found.users:,} users instead of {users:,}."
                )
        except DatabaseRefused as error:
            aside = part.with_suffix(".unverified")
            os.rename(part, aside)
            raise DatabaseRefused(f"{error} The copy was not verified; it is {aside}.") from None
        size_bytes = os.fstat(descriptor).st_size
        os.rename(part, target)
        trust.sync_folder(target)
    return Backup(target, users, size_bytes, found.keys, time.time() - began_s)


def _check_target(settings: StoreSettings, target: Path) -> None:
    """Raise `ConfigError` if a backup must not be written to a path.

    What it replaces can only be an earlier backup: neither a file of the service nor any other.
    """
    own = [settings.path, settings.key_path, settings.audit_path, settings.audit_head_path]
    own += [settings.revisions_path, *map(Path, files_beside(str(settings.path)))]
    if os.path.realpath(target) in map(os.path.realpath, own):
        raise ConfigError(f"{target} belongs to the book itself; choose another file.")
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{target} cannot be replaced: {error.strerror}.") from None
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        header = copying.read_header(descriptor) if regular else None
    finally:
        os.close(descriptor)
    if header is None or header.application_id != APPLICATION_ID:
        raise ConfigError(f"{target} is there, and is no backup; choose another file.")
    if generations.has_log(target) or is_in_use(target):
        raise ConfigError(f"{target} is a book in use, and no backup; choose another file.")
