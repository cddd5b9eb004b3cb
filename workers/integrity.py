"""Going through a whole book: is all of it there, whole and readable, and nobody else's to touch?

Changes nothing, and works beside a running service: rows are read some at a time. The start of a
service looks at less (`database.check_database`), because nobody wants to wait for it; this looks
at everything, and goes on where something is found.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
from peewee import DatabaseError, fn
from playhouse.apsw_ext import APSWDatabase

from pwserver.config import StoreSettings
from pwserver.errors import DatabaseRefused
from workers import rows
from workers.administration import applications
from workers.applications import is_genuine
from workers.audit_reading import record_files
from workers.database import opened_to_examine
from workers.keys import read_keyring, read_keyring_again
from workers.models import (
    COMMON_BOOK,
    STORED_USER,
    User,
    UserRow,
    sql,
    stored_user,
)
from workers.removal import REMOVED
from workers.validation import damages
from workers.vault import Vault

_ROWS_AT_A_TIME = 1000
_NAMED_MAX = 10
"""Users that are named of all who have the same trouble."""

Progress = Callable[[int, int], None]
"""Is told how many rows are done, and of how many."""


class Examination:
    """One look at all of a book. What was found there is counted in `users` and `applications`."""

    def __init__(self, settings: StoreSettings, *, at_rest: bool) -> None:
        self._settings = settings
        self._at_rest = at_rest  # no service has it open: numbers taken in turn must agree
        self._users_of_book: Counter[int] = Counter()
        self.applications = 0

    @property
    def users(self) -> int:
        """How many users there are."""
        return self._users_of_book.total()

    def findings(self, progress: Progress) -> Iterator[str]:
        """Yield a sentence for everything that is not as it should be.

        Raises a `StoreError` where nothing more can be looked at.
        """
        settings = self._settings
        yield from _leftovers(settings.key_path)
        yield from _permissions(settings)
        vault = Vault(read_keyring(settings.key_path))
        with opened_to_examine(settings.path, vault.keyring) as database:
            for damage in damages(database, thorough=True):
                yield f"{settings.path} is damaged: {damage}."
            yield from self._users(database, vault, progress)
            yield from self._applications(vault)

    # --- What is in the database. ---

    def _users(self, database: APSWDatabase, vault: Vault, progress: Progress) -> Iterator[str]:
        """Open every version of every password."""
        refused = 0
        try:
            counted = int(User.select(fn.COUNT(User.id)).scalar())
            for user in _all_users(database):
                self._users_of_book[user.book] += 1
                if self.users % _ROWS_AT_A_TIME == 0:
                    progress(self.users, counted)
                if user.key_id not in vault.keyring.keys:  # since the key file was read, perhaps
                    vault = Vault(read_keyring_again(self._settings.key_path, vault.keyring))
                try:
                    rows.open_all(vault, user)
                except DatabaseRefused as error:
                    refused += 1
                    if refused <= _NAMED_MAX:
                        yield str(error) if user.username is None else f"{user.username}: {error}"
        except (apsw.Error, DatabaseError) as error:
            yield f"after {self.users} users no more could be read: {error}."
            return
        progress(counted, counted)
        if refused > _NAMED_MAX:
            yield f"{refused} users in all have a password that cannot be given out."
        if self._at_rest and self.users != counted:
            yield f"the database counts {counted} users, and {self.users} were found."

    def _applications(self, vault: Vault) -> Iterator[str]:
        """Look at the applications, and for users that belong to none."""
        key = vault.keyring.for_purpose("application")
        found = applications()
        removed = [row for row in found if row.may == REMOVED]
        self.applications = len(found) - len(removed)
        for row in removed:
            if self._at_rest and (left := self._users_of_book[row.id]):
                yield (
                    f"{left} users of an application that was removed are left. The service "
                    "deletes them when it runs next."
                )
        for row in found:
            if not is_genuine(row, key):
                yield f"the application {row.name!r} was altered by somebody without the key."
        orphaned = self._users_of_book.keys() - {COMMON_BOOK, *(row.id for row in found)}
        for book in sorted(orphaned):
            yield f"{self._users_of_book[book]} users are in book {book}, which nobody has."


def _all_users(database: APSWDatabase) -> Iterator[UserRow]:
    """Yield all users; nothing is held open in the database meanwhile."""
    connection: apsw.Connection = database.connection()
    query = User.select(*STORED_USER).where(User.id > 0).order_by(User.id)
    select = sql(query.limit(_ROWS_AT_A_TIME))
    last = -(2**63)  # an id that was tampered with counts as well
    while found := [*map(stored_user, connection.execute(select, (last, _ROWS_AT_A_TIME)))]:
        yield from found
        last = found[-1].id


# --- The files. ---


def _leftovers(key_path: Path) -> Iterator[str]:
    """Look for key files that an interrupted change of keys has left."""
    for path in sorted(key_path.parent.glob(f"{key_path.name}.*")):
        yield (
            f"{path} is left of a change of keys that was interrupted, and has keys in it. "
            f"Run: rm {path}"
        )


def _permissions(settings: StoreSettings) -> Iterator[str]:
    """Look who may use the files. That the key file is nobody else's is seen to by who reads it."""
    database, audit = settings.path, record_files(settings.audit_path)
    files = [
        database,
        Path(f"{database}-wal"),
        Path(f"{database}-shm"),
        settings.audit_head_path,
        *audit.paths,
        *audit.compressed,
    ]
    owner = os.stat(database).st_uid
    for path in files:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            yield f"{path} may be used by others (mode {mode:03o}). Run: chmod 600 {path}"
        if found.st_uid != owner:
            yield f"{path} belongs to another user than {database} does."
    for folder in sorted({path.resolve().parent for path in (database, settings.key_path)}):
        mode = os.stat(folder).st_mode
        if mode & 0o002 and not mode & stat.S_ISVTX:
            yield (
                f"everybody may put other files in place of those in {folder}. "
                f"Run: chmod o-w {folder}"
            )
