"""Verifies a copy of the book: its pages, its number of users, and that every row opens.

A backup is verified before it gets its name, and before it replaces a book. Nobody writes to a
copy, so nothing is locked and no file is made beside it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw
from peewee import fn

from pwserver.config import StoreSettings
from pwserver.errors import DatabaseRefused
from workers.admin.check import Examination
from workers.book.keyring import INTEGRITY_ID, Keyring
from workers.book.models import ApplicationRow, Key, User
from workers.book.vault import Vault
from workers.storage.sqlite.copying import opened_copy
from workers.storage.sqlite.store import SqliteBook
from workers.storage.sqlite.validation import check_keys, check_schema

Progress = Callable[[str, int, int], None]
"""Called with what is done now, how much of it, and of how much."""

_WORK_S = 0.005
"""How long the processor is used before a rest."""

_HANDLER_STEPS = 2000
"""After how many steps of SQLite it calls back: less than a millisecond, so that whoever watches
sees that it is at work."""


@dataclass(frozen=True)
class Found:
    """What is in a copy."""

    users: int
    keys: list[int]
    """The keys that its passwords are sealed with."""
    applications: list[ApplicationRow]
    newest_ms: int
    """When the newest password in it was saved, in milliseconds since 1970; 0 if there is none."""


class Pace:
    """Rests after some work, so that a service beside it can work; `rest` times as long."""

    def __init__(self, rest: float) -> None:
        self._rest = rest
        self._since_s = time.thread_time()

    def keep(self) -> None:
        """Rest if it is time to."""
        used_s = time.thread_time() - self._since_s
        if used_s >= _WORK_S:
            time.sleep(self._rest * used_s)
            self._since_s = time.thread_time()


def verify(  # noqa: PLR0913, PLR0917 - a copy, what it is called, what it needs, and at which pace
    settings: StoreSettings,
    keyring: Keyring,
    path: Path,
    name: Path,
    progress: Progress,
    pace: Pace,
) -> Found:
    """Return what is in a copy; raise a `StoreError` that says what is wrong with it.

    `name` is what the sentence calls it.
    """
    with opened_copy(path, name) as database:
        check_schema(database, name)
        check_keys(name, keyring.check_values)
        done_of = (0, 0)

        def told(done: int, total: int) -> None:
            nonlocal done_of
            done_of = done, total
            progress("Verifying", done, total)
            pace.keep()

        def called_back() -> bool:
            told(*done_of)
            return False

        connection: apsw.Connection = database.connection()
        connection.set_progress_handler(called_back, _HANDLER_STEPS)
        counted = int(User.select(fn.COUNT(User.id)).scalar())
        told(0, counted)
        book = SqliteBook(database)
        found = [f"it is damaged: {damage}." for damage in book.damages()]
        of_copy = StoreSettings(database=str(path), key_file=str(settings.key_path))
        examination = Examination(of_copy, at_rest=False)
        found += examination.content(book, Vault(keyring), told)
        if examination.users != counted:
            found.append(f"it counts {counted:,} users, and {examination.users:,} were found.")
        if found:
            more = f" There are {len(found):,} findings in all." if len(found) > 1 else ""
            raise DatabaseRefused(f"{name} is not in order: {found[0]}{more}")
        keys = [row.id for row in Key.select(Key.id).order_by(Key.id) if row.id != INTEGRITY_ID]
        newest_ms = int(User.select(fn.MAX(User.saved_at_ms)).scalar() or 0)
        return Found(counted, keys, book.applications(), newest_ms)
