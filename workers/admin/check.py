"""Checks a whole book: is everything there, undamaged, readable, and safe from other users?

Changes nothing, and may run beside a service, because it reads some rows at a time. The start of a
service checks less (`Store.check`), because it must be fast; this checks everything,
and continues after a finding.
"""

import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peewee import DatabaseError, fn

from pwserver import trust
from pwserver.config import StoreSettings
from pwserver.errors import DatabaseRefused, StorageFailed
from workers.admin.passphrase import open_keyring
from workers.audit.reading import record_files
from workers.auth.applications import is_genuine
from workers.auth.revisions import RevisionFile, Revisions
from workers.book import rows
from workers.book.keyring import read_keyring_again
from workers.book.models import (
    COMMON_BOOK,
    User,
    UserRow,
    stored_user,
)
from workers.book.names import generated_name
from workers.book.vault import Vault
from workers.storage.disk_space import why_no_room
from workers.storage.operations import REMOVED
from workers.storage.store import OpenBook
from workers.storage.stores import store_of

_ROWS_AT_A_TIME = 1000
_NAMED_MAX = 10
"""How many users with the same problem are named."""

Progress = Callable[[int, int], None]
"""Called with the number of rows that are done, and of all rows."""


def check_room(folder: Path) -> None:
    """Raise `StorageFailed` if the disk or a quota has no room for more."""
    if reason := why_no_room(folder):
        raise StorageFailed(
            f"there is no room for more in {folder}: {reason}. What is saved is in order."
        )


class Examination:
    """One check of a whole book. `users` and `applications` count the rows that it has read."""

    def __init__(self, settings: StoreSettings, *, at_rest: bool) -> None:
        self._settings = settings
        self._at_rest = at_rest  # no service changes it during the check, so counts must agree
        self._users_of_book: Counter[int] = Counter()
        self.users = 0
        self.applications = 0

    def findings(self, progress: Progress) -> Iterator[str]:
        """Yield a sentence for each problem.

        Raises a `StoreError` if the check cannot go on.
        """
        settings = self._settings
        yield from _leftovers(settings.key_path)
        yield from _permissions(settings)
        vault = Vault(open_keyring(settings))
        with store_of(settings).examined(vault.keyring) as book:
            yield from self.content(book, vault, progress)

    # --- The content of the database. ---

    def content(self, book: OpenBook, vault: Vault, progress: Progress) -> Iterator[str]:
        """Yield a sentence for each problem of an open book."""
        for damage in book.damages():
            yield f"{self._settings.book_name} is damaged: {damage}."
        yield from self._users(book, vault, progress)
        yield from self._applications(book, vault)

    def _users(self, book: OpenBook, vault: Vault, progress: Progress) -> Iterator[str]:
        """Open every version of every password."""
        refused = 0
        misplaced: dict[int, str] = {}
        try:
            counted = int(User.select(fn.COUNT(User.id)).scalar())
            for user in _all_users(book, misplaced):
                self._users_of_book[user.book] += 1
                self.users += 1
                if self.users % _ROWS_AT_A_TIME == 0:
                    progress(self.users, counted)
                if user.key_id not in vault.keyring.keys:  # the key may be new
                    vault = Vault(read_keyring_again(self._settings.key_path, vault.keyring))
                try:
                    rows.open_all(vault, user)
                except DatabaseRefused as error:
                    refused += 1
                    if refused <= _NAMED_MAX:
                        yield str(error) if user.username is None else f"{user.username}: {error}"
        except DatabaseError as error:
            yield from _out_of_order(misplaced)
            yield f"after {self.users} users no more could be read: {error}."
            return
        progress(counted, counted)
        yield from _out_of_order(misplaced)
        if refused > _NAMED_MAX:
            yield f"{refused} users in all have a password that cannot be given out."
        if self._at_rest and self.users != counted:
            yield f"the database counts {counted} users, and {self.users} were found."

    def _applications(self, book: OpenBook, vault: Vault) -> Iterator[str]:
        """Check the applications, and look for users that belong to none."""
        key = vault.keyring.for_purpose("application")
        try:
            known = RevisionFile(self._settings.revisions_path, vault.keyring).read()
        except DatabaseRefused as error:
            yield str(error)
            known = Revisions()
        found = book.applications()
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
            elif not known.allows(row):
                yield (
                    f"the application {row.name!r} is an old copy that was put back; it may do "
                    "nothing. `pwserver app rotate` or `pwserver app revoke` makes it a new one."
                )
        orphaned = self._users_of_book.keys() - {COMMON_BOOK, *(row.id for row in found)}
        for number in sorted(orphaned):
            yield f"{self._users_of_book[number]} users are in book {number}, which nobody has."


def _all_users(book: OpenBook, misplaced: dict[int, str]) -> Iterator[UserRow]:
    """Yield each user once; put a sentence about each row out of order into `misplaced`, by id."""

    def note(row: tuple[Any, ...], last: int) -> None:
        user = stored_user(row)
        name = user.username or generated_name(user.id)
        misplaced.setdefault(user.id, f"{name} (row {user.id}) is out of order, after row {last}.")

    users = User.select(*book.user_columns).where(User.id > 0).order_by(User.id)
    for page in book.pages(users, at_a_time=_ROWS_AT_A_TIME, misplaced=note):
        yield from map(stored_user, page)


def _out_of_order(misplaced: dict[int, str]) -> Iterator[str]:
    """Name some of the rows that are out of order, and count them."""
    yield from itertools.islice(misplaced.values(), _NAMED_MAX)
    if misplaced:
        yield (
            f"{len(misplaced)} rows in all are out of order: their page stands in the place of "
            "another, and the users that belong there are lost."
        )


# --- The files. ---


def _leftovers(key_path: Path) -> Iterator[str]:
    """Look for key files that an interrupted change of keys has left behind."""
    for path in sorted(key_path.parent.glob(f"{key_path.name}.*")):
        yield (
            f"{path} is left of a change of keys that was interrupted, and has keys in it. "
            f"Run: rm {path}"
        )


def _permissions(settings: StoreSettings) -> Iterator[str]:
    """Check who may use the files. The key file is not among them: `read_keyring` checks it."""
    first, audit = settings.owned_path, record_files(settings.audit_path)
    database = [] if settings.server else [first, Path(f"{first}-wal"), Path(f"{first}-shm")]
    files = [
        *database,
        settings.audit_head_path,
        settings.revisions_path,
        *audit.paths,
        *audit.compressed,
    ]
    if not trust.is_there(first):
        return  # a key file that is not there, as who reads it says
    owner = os.stat(first).st_uid
    for path in files:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            yield f"{path} may be used by others (mode {mode:03o}). Run: chmod 600 {path}"
        if found.st_uid != owner:
            yield (
                f"{path} belongs to {trust.name_of(found.st_uid)}, and {first} to "
                f"{trust.name_of(owner)}. Run: chown {owner} {path}"
            )
    for folder in sorted({path.resolve().parent for path in (first, settings.key_path)}):
        about = os.stat(folder)
        mode = about.st_mode
        if about.st_uid not in (trust.ROOT, owner):
            yield (
                f"{folder} belongs to {trust.name_of(about.st_uid)}, who may put other files in "
                "place of those in it."
            )
        if mode & 0o002 and not mode & stat.S_ISVTX:
            yield (
                f"everybody may put other files in place of those in {folder}. "
                f"Run: chmod o-w {folder}"
            )
