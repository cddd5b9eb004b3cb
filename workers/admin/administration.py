"""The administrator's changes to applications in the database; the service may be running.

Everybody who may use the files is an administrator. Each change is one short transaction and is
written to the audit record before it is made. If it cannot be recorded, it is not made, unless it
takes something away from somebody who may have stolen it: tokens, rights, keys. That is done all
the same, and `unrecorded` says so. The workers apply a change within a tick.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peewee import SQL, fn

from pwserver.config import StoreSettings
from pwserver.errors import (
    AdministrationRefused,
    ConfigError,
    InvalidMessage,
)
from pwserver.limits import APPLICATIONS_MAX, TICK_S
from pwserver.secret import Secret
from pwserver.wire.messages import RIGHTS, Right
from pwserver.wire.scram import Verifier
from workers.admin.passphrase import open_keyring
from workers.admin.recording import Recording
from workers.auth.applications import (
    is_genuine,
    new_token,
    note_revisions,
    sealed,
    token_hash,
)
from workers.auth.revisions import RevisionFile
from workers.book.keyring import Keyring
from workers.book.models import APPLICATION, COMMON_BOOK, Application, ApplicationRow, User
from workers.book.names import normal
from workers.storage.operations import REMOVED
from workers.storage.store import OpenBook
from workers.storage.stores import store_of

_TOMBSTONE = " "
"""The beginning of the name of a tombstone (a removed application). No other name begins so."""

_PATIENCE_S = 10.0
"""How long a service may delete no user of a removed book before the command gives up."""


class Administration(Recording):
    """An administrator's access to the database and the audit record."""

    def __init__(self, settings: StoreSettings, keyring: Keyring, book: OpenBook) -> None:
        super().__init__(settings, keyring)
        self.settings = settings
        self.keyring = keyring
        self.book = book
        self._seal_key = keyring.for_purpose("application")
        self._revisions = RevisionFile(settings.revisions_path, keyring)
        self._decided: list[ApplicationRow] = []  # in this transaction

    @contextmanager
    def deciding(self, sealing_key: int = 0) -> Iterator[None]:
        """Change applications or keys in one transaction, after which no older state is accepted.

        With a `sealing_key`, that one is chosen in it.

        Raises `AdministrationRefused` if the change is made, but an older state would be accepted.
        """
        self._decided.clear()
        with self.book.changing():
            yield
        file, key = self._revisions, self._seal_key
        try:
            with self.book.changing():
                note_revisions(file, self.book, key, self._decided, sealing_key)
        except OSError as error:
            path = self.settings.revisions_path
            raise AdministrationRefused(
                f"the change is made, but {path} cannot be written: {error.strerror}. Somebody who "
                "can write to the database could undo it, by putting back what was in it before."
            ) from None

    def sealing_key(self) -> int:
        """Return the number of the key that seals now."""
        return self.book.sealing_key()

    # --- Applications. ---

    def applications(self) -> list[ApplicationRow]:
        """Return all applications but tombstones, in the order in which they were added."""
        return [row for row in self._rows() if not row.name.startswith(_TOMBSTONE)]

    def is_old_copy(self, row: ApplicationRow) -> bool:
        """Tell whether an application has been changed since this row of it was written."""
        return is_genuine(row, self._seal_key) and not self._revisions.read().allows(row)

    def add(  # noqa: PLR0913 - an application has as many properties
        self,
        name: str,
        may: Sequence[Right],
        *,
        common: bool,
        lifetime_s: float = 0,
        networks: str = "",
        certificate: bytes | None = None,
    ) -> Secret[str]:
        """Register an application and return its token; raise `AdministrationRefused`.

        A `lifetime_s` of 0 is for ever. `networks` are as `networks.stored` makes them.
        `certificate` is the hash of the public key of its client certificate.
        """
        name = _normal(name)
        now_ms = time.time_ns() // 1_000_000
        with self.deciding():
            rows = self.applications()
            if earlier := next((row for row in rows if row.name == name), None):
                _refuse_removed(earlier)
                raise AdministrationRefused(
                    f"there is an application {name!r} already; `pwserver app rotate` gives it a "
                    "new token."
                )
            if len(rows) >= APPLICATIONS_MAX:
                raise AdministrationRefused(f"there are {APPLICATIONS_MAX} applications already.")
            number = self._next_number()
            self._drop_tombstones(number - APPLICATIONS_MAX)
            self._refuse_certificate_of_another(name, certificate)
            token = new_token()
            self.record("administration", "app add", name)
            self._put(
                ApplicationRow(
                    id=number,
                    name=name,
                    book=COMMON_BOOK if common else number,
                    may=in_order(may),
                    created_at_ms=now_ms,
                    token_hash=token_hash(token.reveal()),
                    verifier=Verifier.of(token.reveal()).pack(),
                    certificate=certificate,
                    networks=networks,
                    **_expiry(now_ms, lifetime_s),
                )
            )
        return token

    def rotate(
        self,
        name: str,
        grace_s: float,
        *,
        lifetime_s: float | None = None,
        certificate: bytes | None = None,
    ) -> Secret[str]:
        """Give an application a new token, and return it; without a `lifetime_s`, for as long.

        The old token and the old certificate are valid for `grace_s`, but not after they expire.
        Those of an old copy are not, because they may have been revoked. From now on the given
        certificate stands for the application, or none.
        """
        token = new_token()
        with self._changing(name, "app rotate", must_be_recorded=False) as row:
            self._refuse_certificate_of_another(row.name, certificate)
            now_ms = time.time_ns() // 1_000_000
            until_ms = now_ms + int(grace_s * 1000)
            if row.expires_ms:
                until_ms = min(until_ms, row.expires_ms)
            if lifetime_s is None:
                lifetime_s = row.lifetime_ms / 1000
            new = _without_credentials(row)._replace(
                token_hash=token_hash(token.reveal()),
                verifier=Verifier.of(token.reveal()).pack(),
                certificate=certificate,
                **_expiry(now_ms, lifetime_s),
            )
            if grace_s and not self.is_old_copy(row):
                new = new._replace(
                    previous_hash=row.token_hash,
                    previous_verifier=row.verifier,
                    previous_certificate=row.certificate,
                    previous_until_ms=until_ms,
                )
            self._put(new)
        return token

    def revoke(self, name: str) -> None:
        """Revoke an application's tokens and certificates.

        Its book stays, and a new token opens it again.
        """
        with self._changing(name, "app revoke", must_be_recorded=False) as row:
            self._put(_without_credentials(row))

    def set_columns(self, name: str, **columns: Any) -> None:
        """Set what an application has, on open connections too.

        `may` is as `in_order` makes it, `networks` as `networks.stored` does; `certificate` is
        the hash of a public key or None; `users_max`, `saves_per_s` and `connections_max` are
        quotas, or 0.
        """
        rights = set(columns.get("may", "").split())
        takes = list(columns) == ["may"] and rights <= set(self._row(_normal(name)).may.split())
        with self._changing(name, "app set", must_be_recorded=not takes) as row:
            if self.is_old_copy(row):  # with a new seal its token would be valid again
                raise AdministrationRefused(
                    f"the application {row.name!r} is an old copy that was put back into the "
                    "database; it may do nothing. See in `pwserver app list` what it could do, "
                    "then give it a new token with `pwserver app rotate`."
                )
            self._refuse_certificate_of_another(row.name, columns.get("certificate"))
            if columns.get("users_max") and row.book == COMMON_BOOK:
                raise AdministrationRefused(
                    f"the application {row.name!r} has no book of its own, and in the common book "
                    "nobody can tell which users are its: it can have no users-max."
                )
            self._put(row._replace(**columns))

    def application(self, name: str) -> ApplicationRow:
        """Return the row of an application; raise `AdministrationRefused` if there is none.

        So it is if somebody has altered it, who could have put in another's book.
        """
        row = self._row(_normal(name))
        self._refuse_altered(row)
        return row

    def users_of(self, name: str) -> int:
        """Return how many users are in an application's own book."""
        row = self.application(name)
        return 0 if row.book == COMMON_BOOK else users_in(row.book)

    def mark_removed(self, name: str) -> int:
        """Remove an application's tokens and rights for good; return its number.

        From then on nothing is saved into its book, and the writer deletes the users in it.
        """
        with self._changing(name, "app remove", removed_too=True) as row:
            self._put(_without_credentials(row)._replace(may=REMOVED))
        return row.id

    def finish_removal(self, number: int) -> None:
        """Free the name of a removed application; its number stays taken by a tombstone."""
        with self.deciding():
            for row in self._rows():
                if row.id == number and row.may == REMOVED:
                    self._put(row._replace(name=f"{_TOMBSTONE}{number}"))

    @staticmethod
    def _drop_tombstones(below: int) -> None:
        """Delete tombstones so old that no save into their books can still be under way."""
        is_tombstone = fn.SUBSTR(Application.name, 1, 1) == _TOMBSTONE
        Application.delete().where(is_tombstone & (Application.id < below)).execute()

    def _next_number(self) -> int:
        """Return a number that no application has had, be its row deleted by somebody else.

        It is that of its book, so with another's number it would have another's users.
        """
        rows = [row for row in self._rows() if is_genuine(row, self._seal_key)]
        known = self._revisions.read().applications
        return max([COMMON_BOOK, *known, *(row.id for row in rows)]) + 1

    def _rows(self) -> list[ApplicationRow]:
        return self.book.applications()

    def _row(self, name: str) -> ApplicationRow:
        row = next((row for row in self.applications() if row.name == name), None)
        if row is None:
            raise AdministrationRefused(f"there is no application {name!r}.")
        return row

    @contextmanager
    def _changing(
        self,
        name: str,
        command: str,
        *,
        removed_too: bool = False,
        must_be_recorded: bool = True,
    ) -> Iterator[ApplicationRow]:
        name = _normal(name)
        with self.deciding():
            row = self._row(name)
            if not removed_too:
                _refuse_removed(row)
            self._refuse_altered(row)
            self.record("administration", command, name, must_be=must_be_recorded)
            yield row

    def _refuse_altered(self, row: ApplicationRow) -> None:
        if not is_genuine(row, self._seal_key):
            raise AdministrationRefused(
                f"the application {row.name!r} was altered in the database by somebody without the "
                "key; it may do nothing. Restore the database from a backup."
            )

    def _refuse_certificate_of_another(self, name: str, certificate: bytes | None) -> None:
        """Raise `AdministrationRefused` if a certificate stands for another application."""
        for row in self.applications() if certificate is not None else ():
            if row.name != name and certificate in (row.certificate, row.previous_certificate):
                raise AdministrationRefused(
                    f"the certificate stands for the application {row.name!r} already."
                )

    def _put(self, row: ApplicationRow) -> None:
        genuine = [each for each in self._rows() if is_genuine(each, self._seal_key)]
        row = row._replace(revision=self._revisions.read().next(genuine))
        row = sealed(row, self._seal_key)
        Application.insert(row._asdict()).on_conflict(
            conflict_target=[Application.id], preserve=APPLICATION[1:]
        ).execute()
        self._decided.append(row)


@contextmanager
def administration(settings: StoreSettings) -> Iterator[Administration]:
    """Open the database for an administrator; raise a `StoreError` if that is impossible."""
    keyring = open_keyring(settings)
    with store_of(settings).administered(keyring) as book:
        files = Administration(settings, keyring, book)
        try:
            yield files
        finally:
            files.close()


def remove(settings: StoreSettings, name: str, progress: Callable[[int, int], None]) -> int:
    """Remove an application and its own book, if it has one; return the number of users in it.

    If a service runs, it deletes the users itself, so its number of users stays exact and no save
    waits for a lock. After an interruption, call it again to continue. Do not call it with the
    database open.
    """
    store = store_of(settings)
    with administration(settings) as files:
        number, keyring = files.mark_removed(name), files.keyring
        users = left = users_in(number)
    patience_until = time.monotonic() + _PATIENCE_S
    while left:
        progress(users - left, users)
        if store.is_in_use():
            time.sleep(TICK_S)
        else:
            store.delete_removed(keyring)
        with store.examined(keyring):
            before, left = left, users_in(number)
        if left < before:
            patience_until = time.monotonic() + _PATIENCE_S
        elif time.monotonic() > patience_until:
            raise AdministrationRefused(
                f"{left} users are left, and the service does not delete them; see its log. The "
                f"application may do nothing any more. Run `pwserver app remove {name}` again."
            )
    progress(users, users)
    with administration(settings) as files:
        files.finish_removal(number)
    return users


def users_in(book: int) -> int:
    """Return the number of users in an application's own book, from the table's two indexes."""
    own = (User.book == book) & (User.book != SQL(str(COMMON_BOOK)))
    parts = (own & User.username.is_null(False), own & User.username.is_null())
    return sum(int(User.select().where(part).count()) for part in parts)


def _refuse_removed(row: ApplicationRow) -> None:
    if row.may == REMOVED:
        raise AdministrationRefused(
            f"the application {row.name!r} is being removed; `pwserver app remove` goes on with it."
        )


def _without_credentials(row: ApplicationRow) -> ApplicationRow:
    """Return an application's row with nothing in it that stands for the application."""
    return row._replace(
        token_hash=None,
        verifier=None,
        previous_hash=None,
        previous_verifier=None,
        certificate=None,
        previous_certificate=None,
        previous_until_ms=0,
        expires_ms=0,
    )


def _expiry(now_ms: int, lifetime_s: float) -> dict[str, Any]:
    """Return the columns that say how long a new token is valid; 0 is for ever."""
    lifetime_ms = int(lifetime_s * 1000)
    return {"expires_ms": now_ms + lifetime_ms if lifetime_ms else 0, "lifetime_ms": lifetime_ms}


def in_order(may: Sequence[Right]) -> str:
    """Return rights as an application's row holds them."""
    return " ".join(right for right in RIGHTS if right in may)


def _normal(name: str) -> str:
    """Return an application's name as it is stored; raise `ConfigError` if it is refused."""
    if not name:
        raise ConfigError('"name" is empty.')
    try:
        return normal(name, "name")
    except InvalidMessage as error:
        raise ConfigError(str(error)) from None
