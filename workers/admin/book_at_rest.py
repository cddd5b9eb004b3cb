"""A book as `pwserver import` and `export` use it by the files, while no service runs on them.

It has the lock that services take, and the methods of `pwserver.moving.books.Book`. What it writes
is what the service would write.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from pwserver.client.results import Password, Saved, User
from pwserver.config import StoreSettings
from pwserver.errors import (
    DatabaseRefused,
    NotSaved,
    Refused,
    Unavailable,
    UnknownUser,
    VersionConflict,
)
from pwserver.ipc import Scoreboard
from pwserver.limits import CHECKPOINT_PAGES
from pwserver.wire.messages import PAGE_USERS_MAX
from workers.book import rows
from workers.book.keyring import Keyring
from workers.book.models import IdClock, UserRow
from workers.book.vault import Vault
from workers.storage.operations import DONE, FULL, SAVE, Operation, nonce
from workers.storage.sqlite.database import Store
from workers.storage.sqlite.reading import BookReader, sealing_key
from workers.storage.sqlite.validation import refusals

_LOG_PAGES_MAX = 8 * CHECKPOINT_PAGES
"""Pages in the log before they are copied to the database: no client waits for it, and names in no
order change the same pages again and again."""


class _Named(Protocol):
    """What is saved: `pwserver.moving.naming.Named`."""

    @property
    def name(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


class BookAtRest:
    """One book of a database. `users_max` is the most users that it may have; 0: any number."""

    def __init__(
        self, store: Store, keyring: Keyring, book: int, users_max: int, versions_kept: int
    ) -> None:
        self._store = store
        self._book = book
        self._users_max = users_max
        self._versions_kept = versions_kept
        self._vault = Vault(keyring, sealing_key(store.connection))
        scoreboard = Scoreboard(1)
        scoreboard.opened()
        self._reader = BookReader(scoreboard, lambda: store.connection)
        self._ids = IdClock(0)
        self._ids.advance(time.time_ns())
        self._ids.after(store.newest_id())

    def save(self, wanted: Sequence[tuple[_Named, int]]) -> list[Saved | Refused]:
        """Save passwords in one transaction; see `Book`."""
        results: list[Saved | Refused] = []
        planned: list[tuple[int, Operation]] = []
        for named, if_version in wanted:
            user = self._reader.find(self._book, named.name)
            newest = 0 if user is None else user.version
            if newest != if_version:
                results.append(VersionConflict(f"The newest version is {newest}.", newest))
                continue
            planned.append((len(results), self._operation(named, user)))
            results.append(Saved(named.name, newest + 1))
        if not planned:
            return results
        with refusals(self._store.path):
            made = self._store.commit([], [operation for _, operation in planned])
            for (place, _), result in zip(planned, made, strict=True):
                if result is not DONE:
                    results[place] = self._not_saved(full=result is FULL)
            self._checkpoint()
        return results

    def _operation(self, named: _Named, user: UserRow | None) -> Operation:
        now_ms = time.time_ns() // 1_000_000
        labels = msgspec.json.encode(named.labels).decode() if named.labels else None
        if user is None:
            new = (self._ids.next(), 1, 0, b"", now_ms, self._book, None, named.name, labels)
            sealed, replaced = rows.seal(self._vault, named.password, UserRow(*new)), None
        else:
            replaced = nonce(user.sealed)
            older = rows.older_with_newest(self._vault, user, self._versions_kept)
            version = user._replace(
                version=user.version + 1,
                saved_at_ms=now_ms,
                older=older,
                labels=labels or user.labels,
            )
            sealed = rows.seal(self._vault, named.password, version)
        return (
            SAVE,
            sealed.key_id,
            sealed.book,
            sealed.username,
            sealed.id,
            replaced,
            sealed.version,
            sealed.sealed,
            sealed.saved_at_ms,
            sealed.labels,
            sealed.older,
            None,
            0,
            self._users_max,
        )

    def _not_saved(self, *, full: bool) -> NotSaved:
        most = f"The application has {self._users_max} users, as many as it may have."
        return NotSaved(most if full else "The book has changed meanwhile.")

    def _checkpoint(self) -> None:
        if self._store.log_pages > _LOG_PAGES_MAX:
            self._store.checkpoint()
            self._store.log_pages = 0

    def verify(self, wanted: Sequence[_Named]) -> list[bool]:
        """Verify passwords; see `Book`. One that was altered is none's."""
        found = self.read([each.name for each in wanted])
        return [
            isinstance(now, Password) and now.password == each.password
            for now, each in zip(found, wanted, strict=True)
        ]

    def users(self) -> Iterator[User]:
        """Yield all users; see `Book`."""
        after: str | None = ""
        while after is not None:
            page, after = self._reader.page(self._book, after, "", None, PAGE_USERS_MAX)
            for entry in page:
                yield User(entry.name, entry.labels, entry.version, _time(entry.saved_at_ms))

    def read(self, names: Sequence[str]) -> list[Password | Refused]:
        """Read passwords; see `Book`."""
        return [self._read(name) for name in names]

    def _read(self, name: str) -> Password | Refused:
        user = self._reader.find(self._book, name)
        if user is None:
            return UnknownUser(f"There is no user {name!r}.")
        try:
            password = rows.open_newest(self._vault, user)
        except DatabaseRefused:
            return Unavailable("What is stored of this password was altered; it is not given out.")
        return Password(name, password, user.version, _time(user.saved_at_ms))


@contextmanager
def book_at_rest(
    settings: StoreSettings, keyring: Keyring, book: int, users_max: int, versions_kept: int
) -> Iterator[BookAtRest]:
    """Open a book; raise `DatabaseRefused` if a service has it."""
    store = Store(settings.path, keyring.check_values, 0)
    try:
        with refusals(settings.path):
            store.begin_log()
        yield BookAtRest(store, keyring, book, users_max, versions_kept)
    finally:
        store.close()


def _time(ms: int) -> datetime:
    """Return a row's time, to the second as on the wire."""
    return datetime.fromtimestamp(ms // 1000, UTC)
